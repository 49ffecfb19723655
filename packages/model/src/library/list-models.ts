import { resolve } from "node:path";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { type IndexedModel, readModelIndex } from "../cache/model-index.ts";
import { isWithin } from "../files/file-name.ts";
import { hubCacheFolder } from "../hub/options.ts";
import type { CachedModel, CachedModels, FoundModel, PackedEntry } from "./cached-model.ts";
import { hubModels, isInCaches, localModel, packageModels } from "./find-models.ts";
import { nameOf, packedSizes } from "./packed-entries.ts";

/** Options of `listModels` and `removeModels`. */
export interface LibraryOptions {
  /** Our cache folder, with packed weights. @default `README_MOE_CACHE`, else the platform's */
  readonly cacheFolder?: string | undefined;
}

/**
 * Lists the models on this machine, with the packed weights that were made from them: those in the hub's cache and in
 * ours, and those elsewhere of which our cache has packed weights. Makes no request.
 */
export async function listModels(options: LibraryOptions = {}): Promise<CachedModels> {
  const [ownCache, hubCache] = [resolveCacheFolder(options.cacheFolder), resolve(hubCacheFolder())];
  const index = await readModelIndex(ownCache);
  const inCaches = [...(await packageModels(ownCache)), ...(await hubModels(hubCache))];
  const isOfCaches = ({ path }: IndexedModel): boolean => isInCaches(path, hubCache, ownCache);
  const elsewhere = index.filter((model) => !isOfCaches(model) && model.entries.length > 0);
  // A model that was removed by another tool has left its packed weights here.
  const gone = index.filter((model) => isOfCaches(model) && ownerOf(inCaches, model) === undefined);
  const others = [...elsewhere, ...gone.filter(({ entries }) => entries.length > 0)];
  const found = [...inCaches, ...(await Promise.all(others.map((each) => localModel(each.path, each.lastUsedMs))))];
  const sizes = await packedSizes(ownCache);
  const models = found.map((model) => described(model, recordsOf(found, model, index), sizes));
  const claimed = new Set(models.flatMap(({ packed }) => packed.map(nameOf)));
  return {
    models: models.toSorted((a, b) => b.lastUsedMs - a.lastUsedMs || (a.name < b.name ? -1 : 1)),
    unclaimed: [...sizes.values()].filter((entry) => !claimed.has(nameOf(entry))),
  };
}

/** Selects what the cache knows about a model: records of its own path, and of paths that lead to no other model. */
function recordsOf(
  found: readonly FoundModel[],
  model: FoundModel,
  index: readonly IndexedModel[],
): readonly IndexedModel[] {
  return index.filter((record) => ownerOf(found, record) === model);
}

/** Finds the model that a path belongs to: the GGUF file, else the folder that it is in. */
function ownerOf(found: readonly FoundModel[], { path }: Pick<IndexedModel, "path">): FoundModel | undefined {
  const owners = found.filter((model) => model.path === path || isWithin(model.path, path));
  return owners.toSorted((a, b) => b.path.length - a.path.length)[0];
}

function described(
  model: FoundModel,
  records: readonly IndexedModel[],
  sizes: ReadonlyMap<string, PackedEntry>,
): CachedModel {
  const entries = new Map(records.flatMap((record) => record.entries.map((entry) => [nameOf(entry), entry])));
  return {
    ...model,
    lastUsedMs: Math.max(model.lastUsedMs, ...records.map(({ lastUsedMs }) => lastUsedMs)),
    packed: [...entries.keys()].flatMap((name) => sizes.get(name) ?? []),
    users: records.flatMap(({ users }) => users),
    indexedPaths: records.map(({ path }) => path),
  };
}
