export {
  type KeptState,
  type KeptTokens,
  KV_BLOCK_TOKENS,
  KV_PRECISIONS,
  kvBytesPerToken,
  stateBytes,
  type KvMemory,
  type KvMemoryOptions,
  type KvPrecision,
  type KvShape,
  type KvSlot,
  wholeBlocks,
} from "./kv/kv-shape.ts";
export { STATES_OF_SLOT } from "./kv/state-pool.ts";
export { KernelKv, type KernelKvOptions } from "./kv/kernel-kv.ts";
export { KV_PAGE_TOKENS, PagePool, type PagePoolOptions, type PageSlot } from "./kv/page-pool.ts";
export { BITS_VERSION, kernelVersion } from "./native-kernel.ts";
export { calibrateModel, type CalibrateOptions, type CalibrationTokens } from "./calibrate-model.ts";
export {
  type DecoderDescription,
  type ExpertDescription,
  type FeedForwardDescription,
  headProductsOf,
  mixtureTensorsOf,
  type LayerDescription,
  type MixtureDescription,
  type RecurrenceDescription,
} from "./description.ts";
export { loraBytes, loraFactors, type LoraFactors, type LoraPrecision, packLora } from "./pack/pack-lora.ts";
export {
  type DescribedModel,
  describeDraftHead,
  describeModel,
  describeRouter,
  precisionOf,
} from "./describe-model.ts";
export { FrozenProduct, type FrozenProductOptions, ProductTeam } from "./frozen-product.ts";
export { LayerPiece, type PieceOptions, type PieceSequence, type PieceStates } from "./layer-piece.ts";
export {
  KEPT_LOGITS_ROWS,
  type Kernel,
  type KernelKind,
  type KernelPages,
  type KernelSizes,
  type LayerStates,
  type StepResults,
} from "./kernel.ts";
export {
  availableInstructions,
  type CachedKernel,
  type CachedKernelOptions,
  changedPackedFile,
  type KernelChoice,
  kernelInfo,
  openCachedKernel,
  openKernel,
} from "./open-kernel.ts";
export { type ByteRange, expertUnits, type ExpertUnits, StoredUnits } from "./pack/expert-units.ts";
export { freeMemoryBytes } from "./free-memory.ts";
export { kernelThreads, returnFreeMemory } from "./kernel-threads.ts";
export { layOut, packedFile } from "./pack/packed-file.ts";
export type { PackedTensor, TensorFormat } from "./pack/block-types.ts";
export { anglesOf, encodeStep, GrowingAngles, splitIntoSteps, type StepPiece, type StepRows } from "./step-request.ts";
