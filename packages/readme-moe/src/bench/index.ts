// `readme-moe/bench`: to write suites, and to measure other engines beside ours.

export { benchCommand, type BenchCommandOptions, BenchFailure } from "./bench-command.ts";
export type { Contender, ContenderSpec, OpenContender } from "./engine/contender.ts";
export { engineSuite, type EngineSuiteOptions } from "./engine/engine-suite.ts";
export { ask as askChild, end as endChild } from "./engine/run-job.ts";
export { treePeakBytes as peakMemoryBytes } from "./engine/process-memory.ts";
export { curvesPanel } from "./kit/curves.ts";
export { type DataFile, dataFiles } from "./kit/data-files.ts";
export { interleave, type Interleaved, type Variant } from "./kit/interleave.ts";
export { type Pair, ratioInterval, ratioOfMedians } from "./kit/ratio.ts";
export { runSuites, type RunSuitesOptions } from "./kit/run-suites.ts";
export { distinct, type Figure, type Sample, valuesOf } from "./kit/sample.ts";
export {
  bootstrapInterval,
  type BootstrapOptions,
  type Growth,
  growthOf,
  type Interval,
  mean,
  median,
  percentile,
} from "./kit/statistics.ts";
export {
  type BenchSettings,
  namesOf,
  numbersOf,
  type ReportTable,
  type Suite,
  type SuiteContext,
  type SuiteReport,
  type Target,
} from "./kit/suite.ts";
export { formatNumber, summaryTable, type SummaryOptions, type TableColumn } from "./kit/summary-table.ts";
