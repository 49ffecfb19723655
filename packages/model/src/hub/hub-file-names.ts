import { ReadMeError } from "@readme-moe/core";
import { HubCache } from "./hub-cache.ts";
import { isOutage, repositoryOf } from "./download-model.ts";
import { type DownloadModelOptions, type DownloadRequest, resolveDownload } from "./options.ts";

/**
 * The names of a hub repository's files, with slashes, to see what kind of model it holds before anything is downloaded.
 * Offline, and when the hub cannot be reached, of those that the cache has.
 *
 * @throws {TypeError | ReadMeError} as `downloadModel`; `ERR_OFFLINE` when the cache has none
 */
export async function hubFileNames(id: string, options: DownloadModelOptions = {}): Promise<ReadonlySet<string>> {
  const request = resolveDownload(id, options);
  request.signal?.throwIfAborted();
  if (request.isOffline) return cachedNames(request);
  const { repository } = await repositoryOf(request);
  try {
    return new Set((await repository.filesAt(request.revision)).keys());
  } catch (error) {
    if (!isOutage(error)) throw error;
    return cachedNames(request).catch(() => {
      throw error;
    });
  }
}

async function cachedNames({ cacheFolder, name, revision }: DownloadRequest): Promise<ReadonlySet<string>> {
  const cache = new HubCache(cacheFolder, name);
  const commit = await cache.commitOf(revision);
  const names = commit === undefined ? undefined : await cache.filesOf(commit);
  if (names !== undefined && names.size > 0) return names;
  throw new ReadMeError("ERR_OFFLINE", `${name}@${revision}: ${cache.folder} lacks it, and no request is made offline`);
}
