// Parts that commands are made of: also those of `@readme-moe/refactor`, which are installed beside this package.

export { readDocuments, readTextData, shortName, type TextDocument } from "./data-files.ts";
export { reportSeldom } from "./fleet/open-front.ts";
export { MODEL_ARGUMENT, withModelFiles } from "./models.ts";
export {
  artefactsOption,
  byteSize,
  type FleetFlags,
  fleetOption,
  jsonOption,
  listOf,
  namesOf,
  numberBetween,
  numberThat,
  parseBytes,
  parseWhole,
  positiveNumber,
  requireOption,
  type RuntimeFlags,
  wholeNumber,
} from "./options.ts";
export { stopSignals } from "./serving/http-server.ts";
export { alignedTable, type Column, percent, showStatus, signed } from "./terminal.ts";
