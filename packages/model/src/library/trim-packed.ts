// Keeps the packed weights in the cache below a size: what was not used for longest is dropped, and packed again when
// its model is opened.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { readModelIndex, reserveRemoval } from "../cache/model-index.ts";
import type { PackedEntry } from "./cached-model.ts";
import type { LibraryOptions } from "./list-models.ts";
import { nameOf, packedSizes } from "./packed-entries.ts";
import { removeUnclaimed } from "./remove-models.ts";

/** Packed data and its use. */
export interface PackedUse extends PackedEntry {
  /** Time of the last use, in ms since 1970. */
  readonly lastUsedMs: number;
  /** Whether a process has a model open that the data was made from. */
  readonly isInUse: boolean;
  /** Models that the data was made from; none for data of earlier versions. */
  readonly modelPaths: readonly string[];
}

/** Largest size of the packed weights in the cache, unless `README_MOE_CACHE_BYTES` says otherwise. */
export const DEFAULT_PACKED_BYTES = 50e9;

/**
 * Returns the limit of the packed weights: `README_MOE_CACHE_BYTES`, else 50 GB.
 *
 * @throws {RangeError} when the variable is no whole number from 0 up
 */
export function packedLimitBytes(): number {
  const text = process.env["README_MOE_CACHE_BYTES"] ?? "";
  if (text === "") return DEFAULT_PACKED_BYTES;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new RangeError(`Expected README_MOE_CACHE_BYTES to be a number of bytes, got \`${text}\``);
}

/** Chooses the data to drop: the least recently used first, until the rest fits. Data in use stays. */
export function packedToDrop(entries: readonly PackedUse[], maxBytes: number): readonly PackedUse[] {
  let excessBytes = entries.reduce((sum, { bytes }) => sum + bytes, 0) - maxBytes;
  const dropped: PackedUse[] = [];
  for (const entry of entries.toSorted((a, b) => a.lastUsedMs - b.lastUsedMs || (nameOf(a) < nameOf(b) ? -1 : 1))) {
    if (excessBytes <= 0) break;
    if (entry.isInUse) continue;
    dropped.push(entry);
    excessBytes -= entry.bytes;
  }
  return dropped;
}

/** Lists the packed data with its last use. */
export async function packedUses({ cacheFolder }: LibraryOptions = {}): Promise<readonly PackedUse[]> {
  const cache = resolveCacheFolder(cacheFolder);
  const [index, sizes] = [await readModelIndex(cache), await packedSizes(cache)];
  return Promise.all(
    [...sizes].map(async ([name, entry]): Promise<PackedUse> => {
      const models = index.filter(({ entries }) => entries.some((each) => nameOf(each) === name));
      const madeMs = await stat(join(cache, entry.kind, entry.key)).then(
        ({ mtimeMs }) => mtimeMs,
        () => 0,
      );
      return {
        ...entry,
        lastUsedMs: Math.max(models.length === 0 ? madeMs : 0, ...models.map(({ lastUsedMs }) => lastUsedMs)),
        isInUse: models.some(({ users }) => users.length > 0),
        modelPaths: models.map(({ path }) => path),
      };
    }),
  );
}

/** Options of `trimPacked`. */
export interface TrimOptions extends LibraryOptions {
  /** Key of data that stays, because it is about to be opened. */
  readonly keptKey?: string | undefined;
}

/**
 * Drops the least recently used packed weights until the rest takes at most `maxBytes`. Those of models that a process
 * has open stay, also if a process opens one meanwhile.
 *
 * @returns what was dropped
 */
export async function trimPacked(maxBytes: number, options: TrimOptions = {}): Promise<readonly PackedUse[]> {
  const dropped: PackedUse[] = [];
  const uses = (await packedUses(options)).map((use) => ({
    ...use,
    isInUse: use.isInUse || use.key === options.keptKey,
  }));
  for (const entry of packedToDrop(uses, maxBytes)) {
    const reservation = await reserveRemoval(resolveCacheFolder(options.cacheFolder), entry.modelPaths).catch(
      () => undefined,
    );
    if (reservation === undefined) continue;
    try {
      await removeUnclaimed([entry], options);
      dropped.push(entry);
    } finally {
      await reservation.release();
    }
  }
  return dropped;
}
