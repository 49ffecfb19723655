export { EXPERTS_FROM, METHODS, type Method, type RefactorOptions } from "./options.ts";
export { refactor, type RefactorRun } from "./refactor.ts";
export type { RefactorProgress } from "./job/stages.ts";
export type { DomainText } from "./data/prepare-domain.ts";
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
export { stackedPicture, type StackedBar, type StackedPicture } from "./report/pictures/bar-pictures.ts";
export { TUNE_METHODS, type TuneOptions } from "./tuning/options.ts";
export { tune, type TuneRun } from "./tuning/tune.ts";
export type { TuneEstimate } from "./tuning/training/estimate.ts";
export type { TuneProgress } from "./tuning/training/train.ts";
export type { TuningLosses, TuningPoint, TuningReport } from "./tuning/result/tuning-report.ts";
export { applyDelta, type ApplyOptions, type ApplyReport } from "./delta/apply.ts";
export { packDelta, type PackOptions, type PackProgress, type PackReport } from "./delta/pack.ts";
