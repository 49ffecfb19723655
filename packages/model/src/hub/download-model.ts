import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/errors.ts";
import { repositoryNameProblem } from "../files/file-name.ts";
import { fetchBlob } from "./fetch-blob.ts";
import { fileSize, HubCache } from "./hub-cache.ts";
import { HubClient } from "./hub-client.ts";
import { HubRepository, type RemoteFile } from "./hub-repository.ts";
import { modelFiles, type ModelFiles, modelPath } from "./model-files.ts";
import {
  checkToken,
  type DownloadModelOptions,
  type DownloadRequest,
  hubToken,
  isCommit,
  type ModelId,
  resolveDownload,
} from "./options.ts";

/**
 * Downloads a model of the Hugging Face hub into the cache that Hugging Face's tools share, and tells where it is.
 * Only files that the cache lacks are asked for, and each is checked against the hash that the hub gives.
 *
 * A branch or tag is looked up each time; when the hub cannot be reached for that, what it last stood for is used if
 * the cache has it. A commit that the cache has all of takes no request.
 *
 * @param id - `organisation/name`, with `@revision` where it is not the main branch
 * @returns what `openModel` takes: the snapshot's folder, or the GGUF file in it
 * @throws {TypeError} when `id` or an option is wrong
 * @throws {ReadMeError} `ERR_HUB_NOT_FOUND`, `ERR_HUB_UNAUTHORIZED`, `ERR_HUB_UNREACHABLE`, `ERR_HUB_RATE_LIMITED`;
 *   `ERR_OFFLINE` naming what the cache lacks; `ERR_FILE_CORRUPT`, `ERR_WRITE_FAILED`; `ERR_MODEL_INVALID` and
 *   `ERR_MODEL_UNSUPPORTED` when the repository holds no model that could be opened
 */
export async function downloadModel(id: string, options: DownloadModelOptions = {}): Promise<string> {
  const request = resolveDownload(id, options);
  request.signal?.throwIfAborted();
  const cache = new HubCache(request.cacheFolder, request.name);
  if (request.isOffline) return findInCache(request, cache);
  const path = isCommit(request.revision) ? await findWholeInCache(request, cache, request.revision) : undefined;
  return path ?? download(request, cache);
}

async function download(request: DownloadRequest, cache: HubCache): Promise<string> {
  const { revision } = request;
  const { client, repository } = await repositoryOf(request);
  let commit: string;
  let remote: ReadonlyMap<string, RemoteFile> | undefined;
  try {
    if (isCommit(revision)) remote = await repository.filesAt(revision);
    commit = remote ? revision : await repository.commitOf(revision);
  } catch (error) {
    const path = isOutage(error) ? await findInCache(request, cache).catch(() => undefined) : undefined;
    if (path === undefined) throw error;
    return path;
  }
  let path = remote ? undefined : await findWholeInCache(request, cache, commit);
  path ??= await downloadFiles(request, cache, client, commit, remote ?? (await repository.filesAt(commit)));
  // Last, so that the revision never stands for files that are not there.
  await cache.setCommitOf(revision, commit);
  return path;
}

/** With the token of the request or of the environment. */
export async function repositoryOf(
  request: DownloadRequest,
): Promise<{ readonly client: HubClient; readonly repository: HubRepository }> {
  const { name, endpoint, signal } = request;
  const token = request.token ?? (await hubToken());
  if (token !== undefined) checkToken("HF_TOKEN", token);
  const client = new HubClient({ endpoint, token, fetch: request.fetch, signal });
  return { client, repository: new HubRepository(name, client, request) };
}

async function downloadFiles(
  request: DownloadRequest,
  cache: HubCache,
  client: HubClient,
  commit: string,
  remote: ReadonlyMap<string, RemoteFile>,
): Promise<string> {
  const title = titleOf(request);
  const snapshot = cache.snapshot(commit);
  const fetched = async (name: string): Promise<string> => {
    const file = remote.get(name);
    if (file === undefined) throw new ReadMeError("ERR_MODEL_INVALID", `${title}: lacks ${quoted(name)}`);
    const path = join(snapshot, name);
    if ((await fileSize(path)) === file.size) return path;
    await fetchBlob(file, cache.blob(file.oid), { ...request, client });
    await cache.link(commit, name, file.oid);
    return path;
  };
  const files = await modelFiles({ title, names: new Set(remote.keys()), path: fetched }, request.file);
  // All names before any file, since the files that come last are large.
  refuseBadNames(title, files.required);
  const lacking = files.required.filter((name) => !remote.has(name));
  if (lacking.length > 0) {
    const code = request.file === undefined ? "ERR_MODEL_INVALID" : "ERR_HUB_NOT_FOUND";
    throw new ReadMeError(code, `${title}: lacks ${listed(lacking)}`);
  }
  for (const name of files.optional) {
    if (remote.has(name)) await fetched(name);
    else await cache.setAbsent(commit, name);
  }
  for (const name of files.required) await fetched(name);
  return modelPath(snapshot, files);
}

/** Names of shards come from the repository's index, those of GGUF files from its listing. */
function refuseBadNames(title: string, names: readonly string[]): void {
  for (const name of names) {
    const problem = repositoryNameProblem(name);
    if (problem) throw new ReadMeError("ERR_FILE_CORRUPT", `${title}: the file name ${quoted(name)} ${problem}`);
  }
}

export function isOutage(error: unknown): boolean {
  return error instanceof ReadMeError && ["ERR_HUB_UNREACHABLE", "ERR_HUB_RATE_LIMITED"].includes(error.code);
}

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
