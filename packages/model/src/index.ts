export { familyOf } from "./config/families.ts";
export type { Activation, ModelConfig } from "./config/model-config.ts";
export { parseConfig } from "./config/parse-config.ts";
export { ropeFrequencies, ropeTables, type RopeConfig } from "./config/rope.ts";
export { writeFileAtomically } from "./files/write-file.ts";
export { decodeFloats, encodeF16, encodeFloats, isStoredFloat, type StoredFloat } from "./files/floats.ts";
export { readTextFile } from "./files/text-file.ts";
export { readMeTensors, type ReadMeTensors } from "./folder/write-read-me.ts";
export type { Model, ModelKind } from "./folder/model.ts";
export { baseFiles, type BaseFiles } from "./folder/base-files.ts";
export { modelLicense } from "./folder/base-files.ts";
export { openModel } from "./folder/open-model.ts";
export type { ReadMeSection } from "./folder/read-me-folder.ts";
export { verifyModel } from "./folder/verify-model.ts";
export { writeReadMeFolder, type ReadMeContent } from "./folder/write-read-me.ts";
export { GgufFile } from "./gguf/gguf-file.ts";
export { GgufTensorStore } from "./gguf/gguf-tensor-store.ts";
export type { GgufMetadata, GgufValue } from "./gguf/metadata.ts";
export { hubFileNames } from "./hub/download-model.ts";
export { downloadModel } from "./hub/download-model.ts";
export type { DownloadModelOptions, DownloadProgress } from "./hub/options.ts";
export { SafetensorsFile } from "./safetensors/read-safetensors.ts";
export { ShardedSafetensors } from "./safetensors/read-safetensors.ts";
export { writeSafetensors, type SafetensorsInput } from "./safetensors/write-safetensors.ts";
export { fittedBlocks } from "./quantize/block-source.ts";
export { eightBitBlocks, storedBlocks, type BlockSource } from "./quantize/block-source.ts";
export type { BlockFormat, BlockWeights } from "./quantize/block-weights.ts";
export type { StoredType, TensorInfo, TensorStore } from "./tensor-store.ts";
export type { RowRange } from "./tensor-store.ts";
export { ChatTemplate, type ChatOptions } from "./text/chat-template.ts";
export { applyChatTemplate, encodeChat, type ControlTokensInMessages } from "./text/encode-chat.ts";
export { endOfTextId } from "./text/tokenizer.ts";
export type { ModelText } from "./text/load-text.ts";
export { StreamingDecoder } from "./text/decoding.ts";
export { Tokenizer, type EncodeOptions } from "./text/tokenizer.ts";
export type {
  AttentionRefs,
  ExpertLayout,
  FeedForwardRefs,
  LayerRefs,
  LinearRefs,
  ModelWeights,
} from "./weights/model-weights.ts";
export { ROUTER_RMS_NORM_EPSILON, type RouterConfig, type RouterWeights } from "./weights/router-weights.ts";
export type { TensorRef } from "./weights/tensor-ref.ts";
export { exportedConfig, exportedGenerationConfig } from "./export/export-config.ts";
export { exportedText, toJson } from "./export/export-text.ts";
export { writeFolderAtomically } from "./files/write-file.ts";
export type { JsonObject } from "./files/text-file.ts";
export { readJsonFile } from "./files/text-file.ts";
export { cachedData } from "./cache/cached-data.ts";
export { resolveCacheFolder } from "./cache/cache-folder.ts";
export type { InputStatistics } from "./quantize/block-source.ts";
export type { Precision } from "./weights/precision.ts";
