// Opened models, and folders of models.
export { openModel } from "./folder/open-model.ts";
export { verifyModel } from "./folder/verify-model.ts";
export type { Model } from "./folder/model.ts";
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
export type { DownloadModelOptions, DownloadProgress } from "./hub/options.ts";

// Configs, weights and routers.
export { layerConfig, type Activation, type LayerConfig, type ModelConfig } from "./config/model-config.ts";
export { ropeFrequencies, ropeTables, type RopeConfig } from "./config/rope.ts";
export type {
  AttentionRefs,
  ExpertLayout,
  FeedForwardRefs,
  LayerRefs,
  LinearRefs,
  ModelWeights,
} from "./weights/model-weights.ts";
export type { Precision } from "./weights/precision.ts";
export { ROUTER_RMS_NORM_EPSILON, type RouterConfig, type RouterWeights } from "./weights/router-weights.ts";
export type { TensorRef } from "./weights/tensor-ref.ts";

// Text: tokenizers and chat templates.
export { ChatTemplate, type ChatOptions } from "./text/chat-template.ts";
export { StreamingDecoder } from "./text/decoding.ts";
export { applyChatTemplate, encodeChat, type ControlTokensInMessages } from "./text/encode-chat.ts";
export type { ModelText } from "./text/load-text.ts";
export { endOfTextId, Tokenizer, type EncodeOptions } from "./text/tokenizer.ts";

// Tensors in safetensors, GGUF and ONNX files.
export type { RowRange, TensorInfo, TensorStore } from "./tensor-store.ts";
export { SafetensorsFile } from "./safetensors/read-safetensors.ts";
export { writeSafetensors, type SafetensorsInput } from "./safetensors/write-safetensors.ts";
export { GgufFile } from "./gguf/gguf-file.ts";
export { GgufTensorStore } from "./gguf/gguf-tensor-store.ts";
export { OnnxTensorStore } from "./onnx/onnx-tensor-store.ts";
export { chooseOnnxFile, ONNX_DTYPES, type OnnxDtype, onnxFileNames } from "./onnx/onnx-names.ts";

// Weights in other types and in blocks.
export { decodeFloats, encodeF16, encodeFloats, f16BitsOf, isStoredFloat, type StoredFloat } from "./files/floats.ts";
export { eightBitBlocks, fittedBlocks, storedBlocks } from "./quantize/block-source.ts";
export type { BlockSource, InputStatistics } from "./quantize/block-source.ts";
export type { BlockWeights } from "./quantize/block-weights.ts";

// The text parts of exports.
export { exportedConfig, exportedGenerationConfig } from "./export/export-config.ts";
export { exportedText, toJson } from "./export/export-text.ts";

// Files: reading with limits, writing whole or not at all, and cached data.
export { readJsonFile, readTextFile, type JsonObject } from "./files/text-file.ts";
export { writeFileAtomically, writeFolderAtomically } from "./files/write-file.ts";
export { cachedData } from "./cache/cached-data.ts";
export { resolveCacheFolder } from "./cache/cache-folder.ts";
