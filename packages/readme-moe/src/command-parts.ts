// Parts that commands are made of: also those of `@readme-moe/refactor`, which are installed beside this package.

export {
  badLine,
  isJsonLines,
  linesOf,
  readDocuments,
  readJsonLines,
  readTextData,
  shortName,
  type TextDocument,
} from "./data-files.ts";
export { reportSeldom } from "./fleet/open-front.ts";
export { MODEL_ARGUMENT, withEngine, withModelFiles } from "./models.ts";
export {
  addOptions,
  artefactsOption,
  byteSize,
  type EngineFlags,
  engineFlag,
  type FleetFlags,
  fleetOption,
  jsonOption,
  listOf,
  memoryOptions,
  namesOf,
  numberBetween,
  numberThat,
  parseBytes,
  parseWhole,
  positiveNumber,
  requireOption,
  type RuntimeFlags,
  runtimeOptions,
  type SamplingFlags,
  samplingOptions,
  samplingParams,
  wholeNumber,
} from "./options.ts";
export { stopSignals } from "./serving/http-server.ts";
export { alignedTable, type Column, percent, showStatus, signed } from "./terminal.ts";
