import {
  type CachedModel,
  fullName,
  isSupported,
  KNOWN_MODELS,
  type KnownModel,
  listModels,
  memoryBytesOf,
  parametersOf,
  sourceFor,
} from "@readme-moe/model";
import { Command } from "commander";
import { engineFlag, examples, jsonOption } from "../options.ts";
import { alignedTable, bytesOf, type Column, countText, sizeText, timeText } from "../terminal.ts";

interface ListFlags {
  readonly available: boolean;
  readonly cacheFolder?: string;
  readonly json: boolean;
}

export function listCommand(): Command {
  return new Command("list")
    .summary("list the models on this machine, or those with short names")
    .description(
      "Lists the models on this machine, the last used first: their family, the size of their files, the size of the " +
        "packed weights that were made from them, draft heads, and whether a process has them open. Makes no request.",
    )
    .option("--available", "list the models with short names instead: size, memory and licence", false)
    .addOption(engineFlag("cacheFolder"))
    .addOption(jsonOption())
    .addHelpText("after", examples("readme-moe list", "readme-moe list --available", "readme-moe list --json"))
    .action((flags: ListFlags) => (flags.available ? printAvailable(flags) : printCached(flags)));
}

async function printCached({ cacheFolder, json }: ListFlags): Promise<void> {
  const { models, unclaimed } = await listModels({ cacheFolder });
  if (json) {
    const other_packed = { entries: unclaimed.length, bytes: bytesOf(unclaimed) };
    return console.log(JSON.stringify({ models: models.map(modelJson), other_packed }));
  }
  if (models.length === 0) console.log("no models here; `readme-moe list --available` shows what `pull` knows");
  else for (const line of alignedTable(CACHED_COLUMNS, models)) console.log(line);
  if (unclaimed.length === 0) return;
  const count = unclaimed.length === 1 ? "1 entry" : `${unclaimed.length} entries`;
  console.log(
    `packed weights of unknown models: ${sizeText(bytesOf(unclaimed))} in ${count}; \`readme-moe remove --unused\` removes them`,
  );
}

const CACHED_COLUMNS: readonly Column<CachedModel>[] = [
  ["name", ({ name }) => name, "left"],
  ["family", ({ family, kind }) => (kind === "adapter" ? "adapter" : (family ?? "?")), "left"],
  ["size", ({ place, bytes }) => (place === "local" ? "-" : sizeText(bytes))],
  ["packed", ({ packed }) => (packed.length === 0 ? "-" : sizeText(bytesOf(packed)))],
  ["last used", ({ lastUsedMs }) => timeText(lastUsedMs)],
  ["", stateOf, "left"],
];

function stateOf({ isComplete, place, users, draftHead }: CachedModel): string {
  const state = isComplete ? "" : place === "local" ? "gone" : "interrupted";
  return [state, draftHead === undefined ? "" : "draft head", users.length > 0 ? "in use" : ""]
    .filter(Boolean)
    .join(", ");
}

function modelJson(model: CachedModel): object {
  const { name, kind, place, repository, commit, revisions, file, family, path, bytes } = model;
  const { isComplete, lastUsedMs, packed, users, draftHead } = model;
  return {
    name,
    kind,
    place,
    repository: repository ?? null,
    commit: commit ?? null,
    revisions,
    file: file ?? null,
    family: family ?? null,
    path,
    bytes,
    complete: isComplete,
    last_used: new Date(lastUsedMs).toISOString(),
    packed: { entries: packed.map(({ kind: folder, key }) => `${folder}/${key}`), bytes: bytesOf(packed) },
    draft_head: draftHead ?? null,
    processes: users.map(({ pid, isOnThisMachine }) => ({ pid, this_machine: isOnThisMachine })),
  };
}

function printAvailable({ json }: ListFlags): void {
  if (json) return console.log(JSON.stringify({ models: KNOWN_MODELS.map(availableJson) }));
  for (const line of alignedTable(AVAILABLE_COLUMNS, KNOWN_MODELS)) console.log(line);
  console.log("memory: about, with one sequence of 2,048 tokens; `readme-moe plan` counts");
}

const AVAILABLE_COLUMNS: readonly Column<KnownModel>[] = [
  ["name", ({ name }) => name, "left"],
  ["parameters", (model) => countText(parametersOf(model))],
  ["download", (model) => sizeText(sourceFor(model).bytes)],
  ["int8: download", (model) => sizeText(sourceFor(model, "int8").bytes)],
  ["memory", (model) => sizeText(memoryBytesOf(model, "int8"))],
  ["int4: download", (model) => sizeText(sourceFor(model, "int4").bytes)],
  ["memory", (model) => sizeText(memoryBytesOf(model, "int4"))],
  ["licence", ({ license }) => license, "left"],
  ["", noteOn, "left"],
];

function noteOn(model: KnownModel): string {
  const gated = model.sources.filter(({ isGated }) => isGated).map((source) => fullName(model, source));
  const notes = [isSupported(model) ? "" : "not supported yet", ...gated.map((name) => `${name} is gated`)];
  return notes.filter(Boolean).join("; ");
}

function availableJson(model: KnownModel): object {
  const { name, title, modelType, license, sources } = model;
  return {
    name,
    title,
    family: modelType,
    license,
    supported: isSupported(model),
    parameters: parametersOf(model),
    memory_bytes: { int8: memoryBytesOf(model, "int8"), int4: memoryBytesOf(model, "int4") },
    sources: sources.map((source) => ({
      name: fullName(model, source),
      weights: source.weights,
      repository: source.repository,
      file: source.file ?? null,
      bytes: source.bytes,
      gated: source.isGated === true,
    })),
  };
}
