import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import type { HubCache } from "./hub-cache.ts";
import { modelFiles, type ModelFiles, modelPath } from "./model-files.ts";
import type { ModelId } from "./model-id.ts";

interface CachedModel extends ModelId {
  readonly file: string | undefined;
}

/**
 * The model as far as the cache alone can tell, for `openModel`.
 * @throws {ReadMeError} `ERR_OFFLINE` naming the files that are missing
 */
export async function findInCache(model: CachedModel, cache: HubCache): Promise<string> {
  const commit = await cache.commitOf(model.revision);
  const lacks = (what: string): ReadMeError =>
    new ReadMeError("ERR_OFFLINE", `${titleOf(model)}: ${cache.folder} lacks ${what}, and no request is made offline`);
  if (commit === undefined) throw lacks(`the revision ${JSON.stringify(model.revision)}`);
  const names = await cache.filesOf(commit);
  const files = await filesIn(model, cache, commit, names);
  const lacking = files.required.filter((name) => !names.has(name));
  if (lacking.length > 0) throw lacks(listed(lacking));
  return modelPath(cache.snapshot(commit), files);
}

/** Like `findInCache`, but only when the cache has also every optional file, or knows that there is none. */
export async function findWholeInCache(
  model: CachedModel,
  cache: HubCache,
  commit: string,
): Promise<string | undefined> {
  const names = await cache.filesOf(commit);
  const files = await filesIn(model, cache, commit, names).catch((error: unknown) => {
    // What is cached so far makes no model; the hub may have the rest.
    if (error instanceof ReadMeError) return undefined;
    throw error;
  });
  if (files === undefined || files.required.some((name) => !names.has(name))) return undefined;
  for (const name of files.optional) {
    if (!names.has(name) && !(await cache.isKnownAbsent(commit, name))) return undefined;
  }
  return modelPath(cache.snapshot(commit), files);
}

function filesIn(model: CachedModel, cache: HubCache, commit: string, names: ReadonlySet<string>): Promise<ModelFiles> {
  const path = async (name: string): Promise<string> => join(cache.snapshot(commit), name);
  return modelFiles({ title: titleOf(model), names, path }, model.file);
}

export function titleOf({ name, revision }: ModelId): string {
  return `${name}@${revision}`;
}

/** File names for a message, which may be many. */
export function listed(names: readonly string[]): string {
  const some = names.slice(0, 10).map((name) => JSON.stringify(name.slice(0, 200)));
  return some.join(", ") + (names.length > some.length ? ` and ${names.length - some.length} more files` : "");
}
