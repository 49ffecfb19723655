import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { quoted } from "../files/quoted.ts";
import { findInCache, findWholeInCache, listed, titleOf } from "./cached-model.ts";
import { hubToken } from "./environment.ts";
import { fetchBlob } from "./fetch-blob.ts";
import { fileNameProblem } from "./file-name.ts";
import { fileSize, HubCache } from "./hub-cache.ts";
import { HubClient } from "./hub-client.ts";
import { HubRepository, type RemoteFile } from "./hub-repository.ts";
import { modelFiles, modelPath } from "./model-files.ts";
import { isCommit } from "./model-id.ts";
import { checkToken, type DownloadModelOptions, type DownloadRequest, resolveDownload } from "./options.ts";

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
    const problem = fileNameProblem(name);
    if (problem) throw new ReadMeError("ERR_FILE_CORRUPT", `${title}: the file name ${quoted(name)} ${problem}`);
  }
}

export function isOutage(error: unknown): boolean {
  return error instanceof ReadMeError && ["ERR_HUB_UNREACHABLE", "ERR_HUB_RATE_LIMITED"].includes(error.code);
}
