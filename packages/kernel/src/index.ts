export type { KeptTokens, KvMemory, KvMemoryOptions, KvSlot } from "./kv/kv-memory.ts";
export {
  KV_BLOCK_TOKENS,
  KV_PRECISIONS,
  kvBytesPerToken,
  wholeBlocks,
  type KvPrecision,
  type KvShape,
} from "./kv/kv-shape.ts";
export { KernelKv, type KernelKvOptions } from "./kv/kernel-kv.ts";
export { KV_PAGE_TOKENS, PagePool, type PagePoolOptions, type PageSlot } from "./kv/page-pool.ts";
export { BITS_VERSION, kernelVersion } from "./kernel-version.ts";
export { calibrateModel, type CalibrateOptions, type CalibrationTokens } from "./calibrate/calibrate-model.ts";
export { anglesOf, GrowingAngles } from "./angles.ts";
export type {
  DecoderDescription,
  ExpertDescription,
  FeedForwardDescription,
  LayerDescription,
  MixtureDescription,
} from "./description.ts";
export { changeFactors, type ChangeFactors } from "./change-factors.ts";
export { changeBytes, packChange, type ChangePrecision } from "./pack/pack-change.ts";
export { describeRouter } from "./describe-router.ts";
export { describeModel, type DescribedModel, precisionOf } from "./describe-model.ts";
export {
  KEPT_LOGITS_ROWS,
  type Kernel,
  type KernelKind,
  type KernelPages,
  type KernelSizes,
  type StepResults,
} from "./kernel.ts";
export { availableInstructions, kernelInfo, openKernel, type KernelChoice } from "./open-kernel.ts";
export { StoredUnits } from "./pack/stored-units.ts";
export { expertUnits, type ByteRange, type ExpertUnits } from "./pack/expert-units.ts";
export {
  changedPackedFile,
  openCachedKernel,
  type CachedKernel,
  type CachedKernelOptions,
} from "./open-cached-kernel.ts";
export { kernelThreads } from "./kernel-threads.ts";
export { layOut, packedFile } from "./pack/packed-file.ts";
export type { TensorFormat } from "./pack/block-types.ts";
export type { PackedTensor } from "./pack/packed-tensor.ts";
export { returnFreeMemory } from "./return-free-memory.ts";
export { encodeStep, splitIntoSteps, type StepLimits, type StepPiece, type StepRows } from "./step-request.ts";
