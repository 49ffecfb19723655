// Opened models, and folders of models.
export { openModel } from "./folder/open-model.ts";
export { openPromptModel, promptFingerprint, type PromptModel } from "./folder/prompt-model.ts";
export { describeMixture, forContext, isPlain, isPublished, type Model, verifyModel } from "./folder/model.ts";
export {
  baseFiles,
  exportedConfig,
  exportedGenerationConfig,
  exportedText,
  modelLicense,
} from "./folder/base-files.ts";
export {
  type ReadMeContent,
  type ReadMeSection,
  readMeTensors,
  type ReadMeTensors,
  writeReadMeFolder,
} from "./folder/read-me-folder.ts";

// Loras: adapters over a dense model.
export {
  expertNameProblem,
  type ListedExpert,
  type Lora,
  type LoraProduct,
  type LoraRefs,
  type LoraSet,
} from "./lora/lora.ts";
export {
  expertNameOf,
  type ExpertSetContent,
  gatherExperts,
  lorasFingerprint,
  openExpertSet,
  writeExpertSet,
} from "./lora/lora-set.ts";
export { addExpertSet, addLora, type ChangeSetOptions, type ExpertAddition, removeLora } from "./lora/change-set.ts";
export { openLora } from "./lora/open-lora.ts";
export { type DraftHead, findDraftHead, openDraftHead } from "./folder/draft-head.ts";

// Models of the Hugging Face hub.
export { downloadAdapter, downloadModel, hubFileNames } from "./hub/download-model.ts";
export type { DownloadModelOptions, DownloadPlan, DownloadProgress, HubSettings, PlannedFile } from "./hub/options.ts";

// Models by name, and those on this machine.
export {
  type ModelShape,
  KNOWN_MODELS,
  type KnownModel,
  memoryBytesOf,
  parametersOf,
  RUNNING_PRECISION,
  sourceFor,
  type SourceWeights,
  type WeightSource,
} from "./names/known-models.ts";
export { fullName, type HubName, modelName, type ModelName, parseModelName } from "./names/parse-name.ts";
export { isSupported, resolveModel, type ResolveModelOptions } from "./names/resolve-model.ts";
export {
  type CachedModel,
  type CachedModels,
  type LibraryOptions,
  listModels,
  type PackedEntry,
} from "./library/find-models.ts";
export {
  DEFAULT_PACKED_BYTES,
  packedLimitBytes,
  packedToDrop,
  type PackedUse,
  packedUses,
  type Removal,
  removeModels,
  removeUnclaimed,
  type Selection,
  selectModels,
  trimPacked,
} from "./library/remove-models.ts";
export { hasEnded, holdModel, type ModelHold, type ModelUser, OWN_MARK, ownerOf } from "./cache/model-index.ts";

// Configs, weights and routers.
export {
  type Activation,
  type EmbeddingConfig,
  layerConfig,
  layerHeads,
  type LayerConfig,
  type MixtureConfig,
  type ModelConfig,
  denseModules,
  numOutputsOf,
  type PoolingConfig,
  type SoftCaps,
  type RopeConfig,
  queryFactor,
  ropeFrequencies,
  ropeScale,
  ropeTables,
  rotatedBy,
  type EncoderConfig,
  decoderActivation,
  longestSequence,
  poolingMode,
  type PoolingMode,
  type LabelConfig,
  type ScoreConfig,
} from "./config/model-config.ts";
export { textConfig } from "./config/parse-config.ts";
export type { RecurrenceConfig } from "./config/recurrence.ts";
export type {
  AttentionRefs,
  ClassifierRefs,
  ExpertLayout,
  FeedForwardRefs,
  LayerRefs,
  LinearRefs,
  MixtureRefs,
  RecurrenceRefs,
  ModelWeights,
  Precision,
  NormRef,
  TensorRef,
} from "./weights/model-weights.ts";
export { ROUTER_RMS_NORM_EPSILON, type RouterConfig, type RouterWeights } from "./weights/locate-router.ts";

// Text: tokenizers and chat templates.
export {
  applyChatTemplate,
  type ChatOptions,
  ChatTemplate,
  type ControlTokensInMessages,
  encodeChat,
} from "./text/chat-template.ts";
export { encodeFillIn } from "./text/fill-in.ts";
export { type FillInMarks, fillInMarks } from "./text/fill-in-marks.ts";
export { cutSequences, type EncodeOptions, endOfTextId, Tokenizer } from "./text/tokenizer.ts";
export { type CompletionPiece, CompletionText, StreamingDecoder } from "./text/token-text.ts";
export type { ModelText } from "./text/load-text.ts";

// Tensors in safetensors, GGUF and ONNX files.
export { blockLayoutOf, type BlockLayout, type GgmlType, ggmlTypeOf, isBlockType } from "./gguf/ggml-types.ts";
export type {
  BlockType,
  BlockWeights,
  FilePlace,
  RowRange,
  StoredType,
  TensorInfo,
  TensorStore,
} from "./tensor-store.ts";
export { SafetensorsFile, type SafetensorsInput, writeSafetensors } from "./safetensors/safetensors-file.ts";
export { GgufFile, GgufTensorStore } from "./gguf/gguf-tensor-store.ts";
export type { GgufInputValue } from "./gguf/encode-metadata.ts";
export { type GgufInput, writeGguf } from "./gguf/write-gguf.ts";
export {
  chooseOnnxFile,
  ONNX_DTYPES,
  type OnnxDtype,
  onnxFileNames,
  OnnxTensorStore,
} from "./onnx/onnx-tensor-store.ts";

// Weights in other types and in blocks.
export {
  decodeFloats,
  encodeF16,
  encodeFloats,
  F16_VALUES,
  f16BitsOf,
  isStoredFloat,
  type StoredFloat,
  transpose,
} from "./files/floats.ts";
export { byteRowTensors, computedTensor, fromByteRows, toByteRows, type ByteRows } from "./weights/computed-tensors.ts";
export {
  type BlockSource,
  eightBitBlocks,
  fittedBlocks,
  type InputStatistics,
  storedBlocks,
  withFloor,
} from "./quantize.ts";

// Files: reading with limits, writing whole or not at all, and cached data.
export { readJsonFile, readTextFile, type JsonObject } from "./files/read-file.ts";
export { freeBytes, TEMPORARY_PREFIX, toJson, writeFileAtomically, writeFolderAtomically } from "./files/write-file.ts";
export { cachedData, isWholeData } from "./cache/cached-data.ts";
export { removeAbandoned, resolveCacheFolder, resolveStateFolder } from "./cache/cache-folder.ts";
