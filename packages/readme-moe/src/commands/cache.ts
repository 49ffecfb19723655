import { packedLimitBytes, type PackedUse, packedUses, resolveCacheFolder, trimPacked } from "@readme-moe/model";
import { Command, Option } from "commander";
import { byteSize, engineFlag, examples, jsonOption } from "../options.ts";
import { alignedTable, bytesOf, type Column, sizeText, timeText } from "../terminal.ts";

interface CacheFlags {
  readonly cacheFolder?: string;
  readonly json: boolean;
}

interface CleanFlags extends CacheFlags {
  readonly maxSize?: number;
}

export function cacheCommand(): Command {
  return new Command("cache")
    .summary("list or drop the packed weights in the cache")
    .description(
      "Weights are packed once for each model and precision. The cache keeps at most 50 GB of them, or as many bytes as " +
        "README_MOE_CACHE_BYTES says, and drops those that were not used for longest. `list` and `remove` are for models.",
    )
    .addCommand(listCommand())
    .addCommand(cleanCommand());
}

function listCommand(): Command {
  return new Command("list")
    .summary("list the packed weights, the last used first")
    .description("Lists the packed weights with their models and sizes, the last used first.")
    .addOption(engineFlag("cacheFolder"))
    .addOption(jsonOption())
    .action(async ({ cacheFolder, json }: CacheFlags) => {
      const uses = (await packedUses({ cacheFolder })).toSorted((a, b) => b.lastUsedMs - a.lastUsedMs);
      const [folder, limitBytes, bytes] = [resolveCacheFolder(cacheFolder), packedLimitBytes(), bytesOf(uses)];
      if (json) {
        console.log(JSON.stringify({ folder, bytes, limit_bytes: limitBytes, entries: uses.map(useJson) }));
        return;
      }
      if (uses.length > 0) for (const line of alignedTable(COLUMNS, uses)) console.log(line);
      console.log(`${sizeText(bytes)} of at most ${sizeText(limitBytes)} in ${folder}`);
    });
}

function cleanCommand(): Command {
  return new Command("clean")
    .summary("drop packed weights, the least recently used first")
    .description("Drops packed weights until the rest fits. They are packed again when their model is opened.")
    .addOption(new Option("--max-size <size>", "size to leave, such as 5GB (default: nothing)").argParser(byteSize))
    .addOption(engineFlag("cacheFolder"))
    .addOption(jsonOption())
    .addHelpText("after", examples("readme-moe cache clean", "readme-moe cache clean --max-size 5GB"))
    .action(async ({ maxSize = 0, cacheFolder, json }: CleanFlags) => {
      const dropped = await trimPacked(maxSize, { cacheFolder });
      if (json) {
        console.log(JSON.stringify({ dropped: dropped.map(useJson), bytes: bytesOf(dropped) }));
        return;
      }
      const inUse = (await packedUses({ cacheFolder })).filter(({ isInUse }) => isInUse);
      const left = inUse.length === 0 ? "" : `; ${sizeText(bytesOf(inUse))} in use stay`;
      console.log(`dropped ${sizeText(bytesOf(dropped))} of packed weights${left}`);
    });
}

const COLUMNS: readonly Column<PackedUse>[] = [
  ["model", ({ modelPaths }) => modelPaths[0] ?? "unknown", "left"],
  ["kind", ({ kind }) => kind, "left"],
  ["size", ({ bytes }) => sizeText(bytes)],
  ["last used", ({ lastUsedMs }) => timeText(lastUsedMs)],
  ["", ({ isInUse }) => (isInUse ? "in use" : ""), "left"],
];

function useJson({ kind, key, bytes, lastUsedMs, isInUse, modelPaths }: PackedUse): object {
  return {
    kind,
    key,
    bytes,
    last_used: new Date(lastUsedMs).toISOString(),
    in_use: isInUse,
    models: modelPaths,
  };
}
