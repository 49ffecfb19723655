export * as decoder from "./decoder/layer.ts";
export { GraphBuilder, type Constant, type Graph, type Value } from "./graph/graph-builder.ts";
export * as operators from "./graph/operators.ts";
export {
  EXPORT_DTYPES,
  exportTransformersJs,
  type ExportedFile,
  type ExportOptions,
  type ExportProgress,
} from "./export/export-transformersjs.ts";
export type { ExportDtype } from "./export/export-weights.ts";
export { floatOutput, GraphSession, type Feeds, type GraphTensor, type SessionOptions } from "./run/session.ts";
