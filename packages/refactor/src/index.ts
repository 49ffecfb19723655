export type { JobRun } from "./option-table.ts";
export {
  REFACTOR_OPTIONS,
  type Method,
  type RefactorFleet,
  type RefactorOptions,
  type RefactorProgress,
  type RefactorRun,
} from "./options.ts";
export { refactor } from "./refactor.ts";
export { openArtefacts } from "./artefacts.ts";
export { RefactorWorker, type RefactorWorkerOptions } from "./tasks/refactor-worker.ts";
export type { DomainText } from "./job/prepare-domain.ts";
export type {
  BaseReport,
  DomainReport,
  LayerReport,
  LossRow,
  OverlapReport,
  Report,
  RoutedPiece,
  RoutedSample,
  RouterReport,
  SettingsReport,
  SizeReport,
  TimeReport,
} from "./report/report.ts";
export { linePicture, type Curve, type LinePanel, type LinePicture } from "./report/pictures/line-picture.ts";
export { stackedPicture, type StackedBar, type StackedPicture } from "./report/pictures/report-pictures.ts";
export {
  TUNE_OPTIONS,
  type TrainingRun,
  type TuneEstimate,
  type TuneOptions,
  type TuneProgress,
  type TuneRun,
} from "./tuning/options.ts";
export { tune, type TuneModels } from "./tuning/tune.ts";
export type { TuningLosses, TuningPoint, TuningReport } from "./tuning/tuning-report.ts";
export { LORA_OPTIONS, type LoraOptions, type LoraProgress, type LoraRun, type LoraStage } from "./lora/options.ts";
export type { ExpertReport, LoraReport, TrainingReport } from "./lora/lora-report.ts";
export { tuneLoras } from "./lora/tune-loras.ts";
export { HEAD_OPTIONS, type HeadOptions, type HeadProgress, type HeadRun } from "./draft-head/options.ts";
export { trainDraftHead, type HeadReport } from "./draft-head/train-draft-head.ts";
export {
  EXPORT_DTYPES,
  exportTransformersJs,
  type ExportedFile,
  type ExportOptions,
  type ExportProgress,
} from "./export/export-transformersjs.ts";
export type { ExportDtype } from "./export/export-weights.ts";
export { exportGguf, type GgufExportOptions } from "./export/export-gguf.ts";
export { BLOCK_MIX_NAMES, type BlockMixName } from "./blocks/block-mixes.ts";
export { ROUNDED_TYPES, type RoundedType, roundToBlocks } from "./blocks/round-blocks.ts";
export { applyDelta, type ApplyOptions, type ApplyReport } from "./delta/apply.ts";
export { packDelta, type PackOptions, type PackProgress, type PackReport } from "./delta/pack.ts";
