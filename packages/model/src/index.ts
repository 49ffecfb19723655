export { activation, type Activation, type Arithmetic, type Precision } from "./blocks/activation.ts";
export { attentionInputs } from "./blocks/attention-inputs.ts";
export type { AttentionShape } from "./blocks/attend.ts";
export { attention, type AttentionInputs, type AttentionOutput } from "./blocks/attention.ts";
export { decoderLayer, normStream, channelScalesOf, type Stream } from "./blocks/decoder-layer.ts";
export { feedForward } from "./blocks/feed-forward.ts";
export { configOfLayer, configOfLayers } from "./calibration/layer-graph.ts";
export { calibrate, type CalibrationSequence } from "./calibration/calibrate.ts";
export type { Calibration } from "./calibration/calibration.ts";
export type { ChannelScales } from "./quantize/channel-scales.ts";
export { blockLinear } from "./blocks/block-linear.ts";

export { expertDealInputs } from "./blocks/expert-deal.ts";
export { logitOutputs } from "./blocks/head.ts";
export { int8Product, int8WeightType, type Int8Kernels } from "./blocks/int8-product.ts";
export { floatWeight, linear } from "./blocks/linear.ts";
export type { ModelConfig, ModelType } from "./config/model-config.ts";
export { parseConfig } from "./config/parse-config.ts";
export { ropeFrequencies, ropeTables, type RopeConfig } from "./config/rope.ts";
export { exportGraph } from "./export/export-graph.ts";
export { exportedText } from "./export/export-text.ts";
export type { ExportDtype } from "./export/export-linear.ts";
export {
  EXPORT_DTYPES,
  exportTransformersJs,
  type ExportedFile,
  type ExportOptions,
  type ExportProgress,
} from "./export/export-transformersjs.ts";
export { writeFileAtomically } from "./files/atomic-write.ts";
export { decodeFloats, encodeF16, encodeFloats, isStoredFloat, type StoredFloat } from "./files/floats.ts";
export { readTextFile } from "./files/text-file.ts";
export { readMeTensors, type ReadMeTensors } from "./folder/model-tensors.ts";
export type { Model, ModelKind } from "./folder/model.ts";
export { baseFiles, type BaseFiles } from "./folder/base-files.ts";
export { modelLicense } from "./folder/model-license.ts";
export { openModel } from "./folder/open-model.ts";
export type { ReadMeSection } from "./folder/read-me-config.ts";
export { verifyModel } from "./folder/verify-model.ts";
export { writeReadMeFolder, type ReadMeContent } from "./folder/write-read-me.ts";
export { GgufFile } from "./gguf/gguf-file.ts";
export { GgufTensorStore } from "./gguf/gguf-tensor-store.ts";
export { toGgufRowOrder } from "./gguf/rotary-rows.ts";
export { ggmlNameOf, hfNameOf } from "./gguf/tensor-names.ts";
export type { GgufMetadata, GgufValue } from "./gguf/value.ts";
export { writeGguf, type GgufInput } from "./gguf/write-gguf.ts";
export { encodeGraph } from "./onnx/encode.ts";
export { readConstant } from "./onnx/data-file.ts";
export { GraphBuilder, type Constant, type Graph, type Value } from "./onnx/graph-builder.ts";
export * as operators from "./onnx/operators.ts";
export { hubFileNames } from "./hub/hub-file-names.ts";
export { downloadModel } from "./hub/download-model.ts";
export type { DownloadModelOptions, DownloadProgress } from "./hub/options.ts";
export type { KeptTokens, KvMemory, KvMemoryOptions, KvSlot } from "./kv/kv-memory.ts";
export { KvPool, type KvPoolOptions, type KvRange } from "./kv/kv-pool.ts";
export { KV_BLOCK_TOKENS, kvBytesPerToken, wholeBlocks, type KvPrecision, type KvShape } from "./kv/kv-shape.ts";
export type { ArenaSlot } from "./kv/kv-slot.ts";
export { prefixTokens } from "./kv/prefix-tokens.ts";
export {
  int64,
  planAttention,
  runningSums,
  upFrom,
  type AttentionPlan,
  type Feeds,
  type StepTokens,
} from "./runtime/attention-feeds.ts";
export { attentionRuns, type AttentionRun } from "./runtime/attention-runs.ts";
export { freshFeeds } from "./runtime/fresh-feeds.ts";
export { dealFeeds } from "./runtime/deal-feeds.ts";
export { resolveCacheFolder } from "./runtime/cache-folder.ts";
export { newGate, shutGate, useGate, type GateMemory } from "./runtime/exit-gate.ts";
export { cachedData } from "./runtime/data-cache.ts";
export { cachedGraph, type CachedGraph } from "./runtime/graph-cache.ts";
export { openGraph, type OpenGraphOptions } from "./runtime/open-graph.ts";
export { disableTelemetry } from "./runtime/telemetry.ts";
export { exactInt8Kernels } from "./runtime/int8-kernels.ts";
export { memoryGraph } from "./runtime/memory-graph.ts";
export { GraphSession, type GraphTensor, type SessionOptions } from "./runtime/session.ts";
export { SafetensorsFile } from "./safetensors/safetensors-file.ts";
export { ShardedSafetensors } from "./safetensors/sharded-safetensors.ts";
export { writeSafetensors, type SafetensorsInput } from "./safetensors/write-safetensors.ts";
export { fittedBlocks } from "./quantize/fitted-blocks.ts";
export { eightBitBlocks, storedBlocks, type BlockSource } from "./quantize/block-source.ts";
export type { BlockFormat, BlockWeights } from "./quantize/block-weights.ts";
export type { StoredType, TensorInfo, TensorStore } from "./tensor-store.ts";
export type { RowRange } from "./tensor-store.ts";
export { applyChatTemplate, ChatTemplate, type ChatOptions } from "./text/chat-template.ts";
export { endOfTextId } from "./text/end-of-text.ts";
export type { ModelText } from "./text/model-text.ts";
export { StreamingDecoder } from "./text/streaming-decoder.ts";
export { Tokenizer } from "./text/tokenizer.ts";
export type { ExpertLayout, FeedForwardRefs, LinearRefs, ModelWeights } from "./weights/model-weights.ts";
export { ROUTER_RMS_NORM_EPSILON, type RouterConfig, type RouterWeights } from "./weights/router-weights.ts";
export type { TensorRef } from "./weights/tensor-ref.ts";
