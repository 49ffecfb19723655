// Lists the regions of pages that are generated from code.

import { LORA_OPTIONS, REFACTOR_OPTIONS, TUNE_OPTIONS } from "@readme-moe/refactor";
import { UNRELEASED, unreleasedChanges } from "./changes.ts";
import { commandSections } from "./commands.ts";
import { errorTable } from "./errors.ts";
import { eventSections } from "./events.ts";
import { limitsTable } from "./limits.ts";
import { metricTable } from "./metrics.ts";
import { routeTable } from "./routes.ts";
import {
  engineOptionTable,
  fieldTable,
  labOptionTable,
  optionTable,
  parameterFieldTable,
  parameterNameTable,
  parameterTable,
} from "./option-tables.ts";
import { shortNameTable } from "./short-names.ts";

export interface Region {
  /** Path of a page, from `docs/reference`. */
  readonly page: string;
  readonly name: string;
  readonly make: () => Promise<string> | string;
}

const ENGINE = "packages/engine/src";
const CORE = "packages/core/src";
const EDGE = "packages/express/src/edge";
const API = "packages/express/src/services.ts";
const LAB = "packages/refactor/src";
/** Options of both trainings. */
const TRAINING = [`${LAB}/tuning/options.ts`, "TRAINING_OPTIONS"] as const;

export const REGIONS: readonly Region[] = [
  { page: "../../CHANGELOG.md", name: UNRELEASED, make: unreleasedChanges },
  { page: "../how-to/models.md", name: "short names", make: shortNameTable },
  {
    page: "engine.md",
    name: "engine options",
    make: () => engineOptionTable([`${ENGINE}/host/model-files.ts`, "OpenOptions"]),
  },
  { page: "engine.md", name: "requests", make: () => optionTable([`${CORE}/engine.ts`, "GenerateRequest"]) },
  { page: "engine.md", name: "parameters", make: parameterTable },
  { page: "engine.md", name: "parameter names", make: parameterNameTable },
  { page: "engine.md", name: "chunks", make: () => fieldTable([`${CORE}/generation.ts`, "GenerateChunk"]) },
  { page: "engine.md", name: "tokens", make: () => fieldTable([`${CORE}/generation.ts`, "GeneratedToken"]) },
  { page: "engine.md", name: "info", make: () => fieldTable([`${CORE}/engine.ts`, "EngineInfo"]) },
  { page: "engine.md", name: "memory", make: () => fieldTable([`${CORE}/engine.ts`, "EngineMemory"]) },
  {
    page: "engine.md",
    name: "stats",
    make: () => fieldTable([`${CORE}/engine.ts`, "EngineStats"], [`${CORE}/engine.ts`, "DraftCounts"]),
  },
  {
    page: "engine.md",
    name: "expert cache",
    make: () =>
      fieldTable(
        [`${CORE}/engine.ts`, "ExpertCacheStats"],
        [`${CORE}/expert-cache/expert-cache.ts`, "ExpertCacheCounters"],
      ),
  },
  { page: "express.md", name: "routes", make: routeTable },
  { page: "../express.md", name: "sampling parameters", make: parameterFieldTable },
  {
    page: "express.md",
    name: "serving",
    make: () => optionTable([API, "ServingOptions"]),
  },
  {
    page: "express.md",
    name: "api",
    make: () => optionTable([API, "ReadMeApiOptions"], ["packages/express/src/api/options.ts", "ApiOptions"]),
  },
  {
    page: "express.md",
    name: "batches",
    make: () => optionTable(["packages/express/src/batches/options.ts", "BatchesOptions"]),
  },
  { page: "express.md", name: "guard", make: () => optionTable([`${EDGE}/guard.ts`, "GuardOptions"]) },
  {
    page: "express.md",
    name: "admission",
    make: () => optionTable([`${EDGE}/admission/limits.ts`, "AdmissionOptions"]),
  },
  { page: "express.md", name: "operations", make: () => optionTable([`${EDGE}/operations.ts`, "OperationsOptions"]) },
  { page: "express.md", name: "metrics", make: () => optionTable([`${EDGE}/metrics.ts`, "MetricsOptions"]) },
  {
    page: "express.md",
    name: "fetch",
    make: () => optionTable(["packages/express/src/fetch-handler.ts", "FetchOptions"]),
  },
  { page: "express.md", name: "models", make: () => optionTable([`${EDGE}/models/options.ts`, "ServedModelsOptions"]) },
  {
    page: "express.md",
    name: "restart",
    make: () => optionTable([`${EDGE}/models/options.ts`, "RestartOptions"]),
  },
  {
    page: "express.md",
    name: "swap",
    make: () =>
      optionTable([`${EDGE}/models/options.ts`, "SwapOptions"], [`${EDGE}/models/options.ts`, "DrainOptions"]),
  },
  { page: "express.md", name: "experts", make: () => optionTable([`${EDGE}/experts.ts`, "ExpertsOptions"]) },
  {
    page: "express.md",
    name: "grammars",
    make: () => optionTable(["packages/grammar/src/grammars-options.ts", "GrammarsOptions"]),
  },
  {
    page: "adapter.md",
    name: "adapter",
    make: () => optionTable(["packages/adapter/src/options.ts", "AdapterOptions"]),
  },
  {
    page: "refactor.md",
    name: "refactor",
    make: () => labOptionTable(REFACTOR_OPTIONS, [`${LAB}/options.ts`, "REFACTOR_OPTIONS"]),
  },
  {
    page: "refactor.md",
    name: "tune",
    make: () => labOptionTable(TUNE_OPTIONS, [`${LAB}/tuning/options.ts`, "TUNE_OPTIONS"], TRAINING),
  },
  {
    page: "refactor.md",
    name: "tune-low-rank",
    make: () => labOptionTable(LORA_OPTIONS, [`${LAB}/lora/options.ts`, "LORA_OPTIONS"], TRAINING),
  },
  { page: "command-line.md", name: "commands", make: commandSections },
  { page: "events.md", name: "events", make: eventSections },
  { page: "errors.md", name: "errors", make: errorTable },
  { page: "limits.md", name: "limits", make: limitsTable },
  { page: "metrics.md", name: "metrics", make: metricTable },
];
