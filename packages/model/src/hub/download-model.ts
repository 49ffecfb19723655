import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { ENCODER_TYPES } from "../config/encoder-config.ts";
import { Fields, MOST } from "../config/fields.ts";
import { corrupt, invalid, notFound, quoted, unsupported } from "../files/errors.ts";
import { repositoryNameProblem } from "../files/file-name.ts";
import { fileSize, type JsonObject, readJsonFile } from "../files/read-file.ts";
import { freeBytes, refuseFullDisk } from "../files/write-file.ts";
import {
  BACKBONE_FILE,
  CONFIG_FILE,
  expertFile,
  INDEX_FILE,
  ROUTER_FILE,
  SINGLE_FILE,
  DENSE_FILES,
  TEXT_FILES,
} from "../folder/model.ts";
import { ADAPTER_CONFIG_FILE, ADAPTER_FILE, SET_FILE } from "../lora/lora.ts";
import { parseSetFile } from "../lora/lora-set.ts";
import { chooseOnnxFile, dataFilesOf, ONNX_MODEL_TYPES } from "../onnx/onnx-tensor-store.ts";
import { readWeightMap } from "../safetensors/safetensors-file.ts";
import { fetchBlob, HubCache, leftBytes } from "./hub-cache.ts";
import { HubClient, HubRepository, type RemoteFile } from "./hub-client.ts";
import {
  checkToken,
  type DownloadModelOptions,
  type DownloadPlan,
  type DownloadRequest,
  hubToken,
  isCommit,
  type ModelId,
  type PlannedFile,
  type RepositoryKind,
  resolveDownload,
} from "./options.ts";

/**
 * Downloads a model of the Hugging Face hub into the cache that Hugging Face's tools share, and returns its path.
 * Requests only files that the cache lacks, and checks each against the hash that the hub gives.
 *
 * A branch or tag is looked up each time. When the hub cannot be reached, its last known commit is used if the cache
 * has it. A commit of which the cache has every file takes no request.
 *
 * @param id - `organisation/name`, with `@revision` when it is not the main branch
 * @returns the path for `openModel`: the snapshot's folder, or the GGUF or ONNX file in it
 * @throws {TypeError} when `id` or an option is wrong
 * @throws {ReadMeError} `ERR_HUB_NOT_FOUND`, `ERR_HUB_UNAUTHORIZED`, `ERR_HUB_UNREACHABLE`, `ERR_HUB_RATE_LIMITED`;
 *   `ERR_OFFLINE` naming what the cache lacks; `ERR_FILE_CORRUPT`, `ERR_WRITE_FAILED`, the latter also before anything
 *   is downloaded when the disk has too little space; `ERR_MODEL_INVALID` and
 *   `ERR_MODEL_UNSUPPORTED` when the repository holds no model that could be opened
 */
export async function downloadModel(id: string, options: DownloadModelOptions = {}): Promise<string> {
  return downloadRequested(resolveDownload(id, options));
}

/**
 * Downloads an adapter of the Hugging Face hub, in PEFT's layout: adapter_config.json and adapter_model.safetensors.
 * Works as `downloadModel` does otherwise.
 *
 * @returns the path for `openLora`
 * @throws {TypeError | ReadMeError} as `downloadModel`
 */
export async function downloadAdapter(id: string, options: Omit<DownloadModelOptions, "file"> = {}): Promise<string> {
  return downloadRequested(resolveDownload(id, options, "adapter"));
}

async function downloadRequested(request: DownloadRequest): Promise<string> {
  request.signal?.throwIfAborted();
  const cache = new HubCache(request.cacheFolder, request.name);
  if (request.isOffline) return findInCache(request, cache);
  const path = isCommit(request.revision) ? await findWholeInCache(request, cache, request.revision) : undefined;
  return path ?? download(request, cache);
}

/**
 * Lists the names of a hub repository's files, with slashes, to see what kind of model it holds before a download.
 * Lists cached files when offline, or when the hub cannot be reached.
 *
 * @throws {TypeError | ReadMeError} as `downloadModel`; `ERR_OFFLINE` when the cache has none
 */
export async function hubFileNames(id: string, options: DownloadModelOptions = {}): Promise<ReadonlySet<string>> {
  const request = resolveDownload(id, options);
  request.signal?.throwIfAborted();
  if (request.isOffline) return cachedNames(request);
  const { repository } = await connect(request);
  try {
    return new Set((await repository.filesAt(request.revision)).keys());
  } catch (error) {
    if (!isOutage(error)) throw error;
    return cachedNames(request).catch(() => {
      throw error;
    });
  }
}

interface Connection {
  readonly client: HubClient;
  readonly repository: HubRepository;
}

/** Connects with the token of the request or of the environment. */
async function connect(request: DownloadRequest): Promise<Connection> {
  const { name, endpoint, signal } = request;
  const token = request.token ?? (await hubToken());
  if (token !== undefined) checkToken("HF_TOKEN", token);
  const client = new HubClient({ endpoint, token, fetch: request.fetch, signal });
  return { client, repository: new HubRepository(name, client, request) };
}

async function download(request: DownloadRequest, cache: HubCache): Promise<string> {
  const { revision } = request;
  const { client, repository } = await connect(request);
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
  if (path === undefined) {
    remote ??= await repository.filesAt(commit);
    path = await downloadFiles(request, { cache, client, commit, remote });
  }
  // Written last, so that the revision never stands for missing files.
  await cache.setCommitOf(revision, commit);
  return path;
}

interface Target {
  readonly cache: HubCache;
  readonly client: HubClient;
  readonly commit: string;
  readonly remote: ReadonlyMap<string, RemoteFile>;
}

async function downloadFiles(request: DownloadRequest, { cache, client, commit, remote }: Target): Promise<string> {
  const title = titleOf(request);
  const snapshot = cache.snapshot(commit);
  const fetched = async (name: string): Promise<string> => {
    const file = remote.get(name);
    if (file === undefined) throw invalid(title, `lacks ${quoted(name)}`);
    const path = join(snapshot, name);
    if ((await fileSize(path)) === file.size) return path;
    await fetchBlob(file, cache.blob(file.oid), { ...request, client });
    await cache.link(commit, name, file.oid);
    return path;
  };
  const files = await modelFiles({ title, names: new Set(remote.keys()), path: fetched }, request);
  // All names are checked before any download, since the last files are the large ones.
  refuseBadNames(title, files.required);
  const lacking = files.required.filter((name) => !remote.has(name));
  if (lacking.length > 0) {
    const code = request.file === undefined ? "ERR_MODEL_INVALID" : "ERR_HUB_NOT_FOUND";
    throw new ReadMeError(code, `${title}: lacks ${listed(lacking)}`);
  }
  const plan = await planOf(request, { cache, client, commit, remote }, [...files.optional, ...files.required]);
  request.onPlan(plan);
  refuseFullDisk(plan.folder, plan.missingBytes, plan.freeBytes);
  for (const name of files.optional) {
    if (remote.has(name)) await fetched(name);
    else await cache.setAbsent(commit, name);
  }
  for (const name of files.required) await fetched(name);
  return modelPath(snapshot, files);
}

async function planOf(
  { cacheFolder }: DownloadRequest,
  { cache, commit, remote }: Target,
  names: readonly string[],
): Promise<DownloadPlan> {
  const files: PlannedFile[] = [];
  for (const name of names) {
    const file = remote.get(name);
    if (file === undefined) continue;
    const { size: bytes, oid } = file;
    const places = [join(cache.snapshot(commit), name), cache.blob(oid)];
    const isThere = (await Promise.all(places.map(fileSize))).includes(bytes);
    const left = isThere ? bytes : Math.min(bytes, await leftBytes(cache.blob(oid)));
    files.push({ name, bytes, missingBytes: bytes - left });
  }
  const sumOf = (key: "bytes" | "missingBytes"): number => files.reduce((sum, file) => sum + file[key], 0);
  const sizes = { bytes: sumOf("bytes"), missingBytes: sumOf("missingBytes") };
  return { commit, files, ...sizes, folder: cacheFolder, freeBytes: await freeBytes(cacheFolder) };
}

/** Checks names of shards and experts, which the repository's files give, and of GGUF files, from its listing. */
function refuseBadNames(title: string, names: readonly string[]): void {
  for (const name of names) {
    const problem = repositoryNameProblem(name);
    if (problem) throw corrupt(title, `the file name ${quoted(name)} ${problem}`);
  }
}

function isOutage(error: unknown): boolean {
  return error instanceof ReadMeError && ["ERR_HUB_UNREACHABLE", "ERR_HUB_RATE_LIMITED"].includes(error.code);
}

/**
 * Finds the model in the cache, as far as the cache alone can tell.
 * @throws {ReadMeError} `ERR_OFFLINE` naming the missing files
 */
async function findInCache(request: DownloadRequest, cache: HubCache): Promise<string> {
  const commit = await cache.commitOf(request.revision);
  if (commit === undefined) throw lacks(request, cache, `the revision ${JSON.stringify(request.revision)}`);
  const names = await cache.filesOf(commit);
  const files = await cachedFiles(request, cache, commit, names);
  const lacking = files.required.filter((name) => !names.has(name));
  if (lacking.length > 0) throw lacks(request, cache, listed(lacking));
  return modelPath(cache.snapshot(commit), files);
}

/** Finds the model in a cache that has also every optional file, or knows that the commit has no such file. */
async function findWholeInCache(
  request: DownloadRequest,
  cache: HubCache,
  commit: string,
): Promise<string | undefined> {
  const names = await cache.filesOf(commit);
  const files = await cachedFiles(request, cache, commit, names).catch((error: unknown) => {
    // The cached files make no model; the hub may have the rest.
    if (error instanceof ReadMeError) return undefined;
    throw error;
  });
  if (files === undefined || files.required.some((name) => !names.has(name))) return undefined;
  // The hub may have a more exact file than the cached one, or values beside it that the cache lacks.
  if (files.opened !== undefined) return undefined;
  for (const name of files.optional) {
    if (!names.has(name) && !(await cache.isKnownAbsent(commit, name))) return undefined;
  }
  return modelPath(cache.snapshot(commit), files);
}

function cachedFiles(
  request: DownloadRequest,
  cache: HubCache,
  commit: string,
  names: ReadonlySet<string>,
): Promise<ModelFiles> {
  const path = async (name: string): Promise<string> => join(cache.snapshot(commit), name);
  return modelFiles({ title: titleOf(request), names, path }, request);
}

async function cachedNames(request: DownloadRequest): Promise<ReadonlySet<string>> {
  const cache = new HubCache(request.cacheFolder, request.name);
  const commit = await cache.commitOf(request.revision);
  const names = commit === undefined ? undefined : await cache.filesOf(commit);
  if (names !== undefined && names.size > 0) return names;
  throw lacks(request, cache, "it");
}

function lacks(request: DownloadRequest, cache: HubCache, what: string): ReadMeError {
  const message = `${titleOf(request)}: ${cache.folder} lacks ${what}, and no request is made offline`;
  return new ReadMeError("ERR_OFFLINE", message);
}

function titleOf({ name, revision }: ModelId): string {
  return `${name}@${revision}`;
}

const MAX_JSON_BYTES = 100 << 20;

/** Place of a model's files: a repository, or a snapshot of the cache. */
interface FileSource {
  /** Name of the model in messages. */
  readonly title: string;
  readonly names: { has(name: string): boolean } & Iterable<string>;
  /** Returns the path at which the file of this name, one of `names`, can be read. */
  path(name: string): Promise<string>;
}

interface ModelFiles {
  /** Files without which the model cannot be opened; the source may lack some of them. */
  readonly required: readonly string[];
  readonly optional: readonly string[];
  /** The file that the model is opened by, if it is one of several of its kind. */
  readonly opened?: string;
}

/**
 * Finds the files that `openModel` reads, in the order in which it looks: a Read-ME folder's, one safetensors file, an
 * index and its shards, the only GGUF file, or an ONNX file, with the files of experts in the same folder. An adapter
 * has two files.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` when there are several GGUF files to choose from, or config or index are
 *   invalid; `ERR_MODEL_UNSUPPORTED` when the weights are of another kind
 */
export async function modelFiles(
  source: FileSource,
  { kind, file }: { readonly kind: RepositoryKind; readonly file: string | undefined },
): Promise<ModelFiles> {
  if (kind === "adapter") return adapterFiles(source);
  if (file !== undefined && /\.onnx$/i.test(file)) return onnxFiles(source, file);
  if (file !== undefined) return { required: [file], optional: [] };
  const { required, ...others } = await weightFiles(source);
  const experts = source.names.has(SET_FILE) ? await expertFiles(source) : [];
  return { required: [...required, ...experts], ...others };
}

async function weightFiles(source: FileSource): Promise<ModelFiles> {
  const { names } = source;
  if (names.has(BACKBONE_FILE))
    return { required: [CONFIG_FILE, ...(await readMeFiles(source))], optional: TEXT_FILES };
  if (names.has(SINGLE_FILE))
    return { required: [CONFIG_FILE, SINGLE_FILE], optional: [...TEXT_FILES, ...DENSE_FILES] };
  if (names.has(INDEX_FILE)) {
    return {
      required: [CONFIG_FILE, INDEX_FILE, ...(await shards(source))],
      optional: [...TEXT_FILES, ...DENSE_FILES],
    };
  }
  return withoutSafetensors(source);
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the adapter's weights are pickled */
function adapterFiles({ names, title }: FileSource): ModelFiles {
  if (!names.has(ADAPTER_FILE) && names.has("adapter_model.bin")) {
    throw unsupported(title, `has PyTorch's pickled adapter_model.bin, which is not read; it needs ${ADAPTER_FILE}`);
  }
  return { required: [ADAPTER_CONFIG_FILE, ADAPTER_FILE], optional: [] };
}

/** Lists the files of a set of loras. */
async function expertFiles(source: FileSource): Promise<readonly string[]> {
  const [path, json] = await readJson(source, SET_FILE);
  const { entries, router } = parseSetFile(path, json);
  const adapters = entries.flatMap(({ folder }) => [`${folder}/${ADAPTER_CONFIG_FILE}`, `${folder}/${ADAPTER_FILE}`]);
  return [SET_FILE, ...new Set(adapters), ...(router === undefined ? [] : [ROUTER_FILE])];
}

async function readMeFiles(source: FileSource): Promise<readonly string[]> {
  if (!source.names.has(CONFIG_FILE)) return [BACKBONE_FILE];
  const [path, json] = await readJson(source, CONFIG_FILE);
  const readme = new Fields(path, json).object("readme");
  if (readme === undefined) return [BACKBONE_FILE];
  const numExperts = readme.size("num_experts", MOST.routedExperts);
  // The hub's names have slashes on every system.
  const experts = Array.from({ length: numExperts }, (_, expert) => expertFile(expert).replaceAll("\\", "/"));
  return [BACKBONE_FILE, ...experts, ...(readme.has("router") ? [ROUTER_FILE] : [])];
}

async function shards(source: FileSource): Promise<readonly string[]> {
  const path = await source.path(INDEX_FILE);
  const names = [...new Set((await readWeightMap(path)).values())];
  if (names.length > 0) return names;
  throw invalid(path, "names no file in `weight_map`");
}

/**
 * Lists an ONNX file with the files of values beside it, behind the config, so that a model that is not read is refused
 * before its weights are fetched.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when its family is not read from ONNX files
 */
async function onnxFiles(source: FileSource, file: string): Promise<ModelFiles> {
  if (source.names.has(CONFIG_FILE)) refuseFamily(...(await readJson(source, CONFIG_FILE)));
  const required = [CONFIG_FILE, file, ...dataFilesOf(file, source.names)];
  return { required, optional: TEXT_FILES, opened: file };
}

function refuseFamily(path: string, config: JsonObject): void {
  const modelType = new Fields(path, config).text("model_type");
  if (ONNX_MODEL_TYPES.includes(modelType) || ENCODER_TYPES.includes(modelType)) return;
  throw unsupported(
    path,
    `is of the family ${modelType}; read from ONNX are ${[...ONNX_MODEL_TYPES, ...ENCODER_TYPES].join(", ")}`,
  );
}

async function withoutSafetensors(source: FileSource): Promise<ModelFiles> {
  const { names, title } = source;
  const ggufs = [...names].filter((name) => name.toLowerCase().endsWith(".gguf"));
  // A cache may have this file alone of a repository with safetensors, unless it knows that there are none.
  if (ggufs.length === 1) return { required: ggufs, optional: [BACKBONE_FILE, SINGLE_FILE, INDEX_FILE] };
  if (ggufs.length > 1) {
    throw invalid(title, `has several GGUF files; choose one as \`file\`: ${listed(ggufs, 20)}`);
  }
  const onnx = chooseOnnxFile(names);
  if (onnx !== undefined) return onnxFiles(source, onnx);
  if (names.has("pytorch_model.bin") || names.has("pytorch_model.bin.index.json")) {
    throw unsupported(title, "has PyTorch's pickled weights, which are not read; it needs safetensors, GGUF or ONNX");
  }
  return { required: [CONFIG_FILE, SINGLE_FILE], optional: TEXT_FILES };
}

async function readJson(source: FileSource, name: string): Promise<readonly [string, JsonObject]> {
  const path = await source.path(name);
  const json = await readJsonFile(path, MAX_JSON_BYTES);
  if (json === undefined) throw notFound(path, "no such file");
  return [path, json];
}

/** Returns the path for `openModel`: the GGUF file when that is all, the ONNX file, else the folder. */
export function modelPath(snapshot: string, { required: [first = "", ...others], opened }: ModelFiles): string {
  if (opened !== undefined) return join(snapshot, opened);
  return others.length === 0 ? join(snapshot, first) : snapshot;
}

/** Lists file names for a message; there may be many. */
export function listed(names: readonly string[], most: number = 10): string {
  const some = names.slice(0, most).map((name) => JSON.stringify(name.slice(0, 200)));
  return some.join(", ") + (names.length > some.length ? ` and ${names.length - some.length} more files` : "");
}
