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
