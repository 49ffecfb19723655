// Opened models, and folders of models.
export { openModel } from "./folder/open-model.ts";
export { openPromptModel, promptFingerprint, type PromptModel } from "./folder/prompt-model.ts";
export { forContext } from "./folder/for-context.ts";
export { verifyModel } from "./folder/verify-model.ts";
export type { Model } from "./folder/model.ts";
export { describeMixture, isPublished } from "./folder/model-kind.ts";
export { baseFiles, modelLicense } from "./folder/base-files.ts";
export type { ReadMeSection } from "./folder/read-me-folder.ts";
export { readMeTensors, writeReadMeFolder, type ReadMeContent, type ReadMeTensors } from "./folder/write-read-me.ts";

// Low-rank experts: adapters over a dense model.
export {
  expertNameProblem,
  type LowRankExpert,
  type LowRankProduct,
  type LowRankRefs,
} from "./low-rank/low-rank-expert.ts";
export type { ListedExpert, LowRankSet } from "./low-rank/low-rank-set.ts";
export { adaptersFingerprint } from "./low-rank/adapters-fingerprint.ts";
export { openExpertSet } from "./low-rank/expert-set.ts";
export {
  addExpertSet,
  addLowRankExpert,
  type ChangeSetOptions,
  type ExpertAddition,
  removeLowRankExpert,
} from "./low-rank/change-set.ts";
export { type ExpertSetContent, writeExpertSet } from "./low-rank/write-set.ts";
export { expertNameOf, gatherExperts } from "./low-rank/gather-experts.ts";
export { openLowRankExpert } from "./low-rank/open-low-rank-expert.ts";

// Models of the Hugging Face hub.
export { downloadAdapter, downloadModel, hubFileNames } from "./hub/download-model.ts";
export type { DownloadModelOptions, DownloadPlan, DownloadProgress, HubSettings, PlannedFile } from "./hub/options.ts";

// Models by name, and those on this machine.
export {
  type DecoderShape,
  type KnownModel,
  memoryBytesOf,
  parametersOf,
  RUNNING_PRECISION,
  sourceFor,
  type SourceWeights,
  type WeightSource,
} from "./names/known-model.ts";
export { KNOWN_MODELS } from "./names/known-models.ts";
export { modelName } from "./names/model-name.ts";
export { fullName, type HubName, type ModelName, parseModelName } from "./names/parse-name.ts";
export { isSupported, resolveModel, type ResolveModelOptions } from "./names/resolve-model.ts";
export type { CachedModel, CachedModels, PackedEntry } from "./library/cached-model.ts";
export { type LibraryOptions, listModels } from "./library/list-models.ts";
export { type Removal, removeModels, removeUnclaimed } from "./library/remove-models.ts";
export {
  DEFAULT_PACKED_BYTES,
  packedLimitBytes,
  packedToDrop,
  type PackedUse,
  packedUses,
  trimPacked,
} from "./library/trim-packed.ts";
export { selectModels, type Selection } from "./library/select-models.ts";
export { holdModel, type ModelHold, type ModelUser } from "./cache/model-index.ts";

// Configs, weights and routers.
export {
  layerConfig,
  type Activation,
  type LayerConfig,
  type MixtureConfig,
  type ModelConfig,
} from "./config/model-config.ts";
export { textConfig } from "./config/parse-config.ts";
export { numOutputsOf, type EmbeddingConfig, type PoolingConfig, type ScoreConfig } from "./config/pooling.ts";
export { ropeFrequencies, ropeScale, ropeTables, type RopeConfig } from "./config/rope.ts";
export type {
  AttentionRefs,
  ExpertLayout,
  FeedForwardRefs,
  LayerRefs,
  MixtureRefs,
  LinearRefs,
  ModelWeights,
} from "./weights/model-weights.ts";
export type { Precision } from "./weights/precision.ts";
export { ROUTER_RMS_NORM_EPSILON, type RouterConfig, type RouterWeights } from "./weights/router-weights.ts";
export type { TensorRef } from "./weights/tensor-ref.ts";

// Text: tokenizers and chat templates.
export { ChatTemplate, type ChatOptions } from "./text/chat-template.ts";
export { CompletionText, type CompletionPiece } from "./text/completion-text.ts";
export { StreamingDecoder } from "./text/decoding.ts";
export { applyChatTemplate, encodeChat, type ControlTokensInMessages } from "./text/encode-chat.ts";
export type { ModelText } from "./text/load-text.ts";
export { cutSequences } from "./text/sequences.ts";
export { endOfTextId, Tokenizer, type EncodeOptions } from "./text/tokenizer.ts";

// Tensors in safetensors, GGUF and ONNX files.
export { blockLayoutOf } from "./gguf/ggml-types.ts";
export type { BlockType, FilePlace, RowRange, TensorInfo, TensorStore } from "./tensor-store.ts";
export { SafetensorsFile } from "./safetensors/read-safetensors.ts";
export { writeSafetensors, type SafetensorsInput } from "./safetensors/write-safetensors.ts";
export { GgufFile } from "./gguf/gguf-file.ts";
export { GgufTensorStore } from "./gguf/gguf-tensor-store.ts";
export { OnnxTensorStore } from "./onnx/onnx-tensor-store.ts";
export { chooseOnnxFile, ONNX_DTYPES, type OnnxDtype, onnxFileNames } from "./onnx/onnx-names.ts";

// Weights in other types and in blocks.
export { decodeFloats, encodeF16, encodeFloats, f16BitsOf, isStoredFloat, type StoredFloat } from "./files/floats.ts";
export { transpose } from "./files/transpose.ts";
export { byteRowTensors, fromByteRows, toByteRows, type ByteRows } from "./weights/byte-rows.ts";
export { eightBitBlocks, fittedBlocks, storedBlocks } from "./quantize/block-source.ts";
export type { BlockSource, InputStatistics } from "./quantize/block-source.ts";
export type { BlockWeights } from "./quantize/block-weights.ts";

// The text parts of exports.
export { exportedConfig, exportedGenerationConfig } from "./export/export-config.ts";
export { exportedText, toJson } from "./export/export-text.ts";

// Files: reading with limits, writing whole or not at all, and cached data.
export { readJsonFile, readTextFile, type JsonObject } from "./files/text-file.ts";
export { writeFileAtomically, writeFolderAtomically } from "./files/write-file.ts";
export { cachedData, isWholeData } from "./cache/cached-data.ts";
export { resolveCacheFolder, resolveStateFolder } from "./cache/cache-folder.ts";
export { hasEnded, OWN_MARK, ownerOf } from "./cache/process-mark.ts";
