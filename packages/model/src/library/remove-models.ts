import { randomUUID } from "node:crypto";
import { lstat, readdir, readlink, rename, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { messageOf, nearestName, ReadMeError } from "@readme-moe/core";
import { removeAbandoned, resolveCacheFolder } from "../cache/cache-folder.ts";
import { memoOf } from "../cache/cached-data.ts";
import { forgetModels, readModelIndex, reserveRemoval } from "../cache/model-index.ts";
import { isSystemError } from "../files/errors.ts";
import { HubCache } from "../hub/hub-cache.ts";
import { hubCacheFolder } from "../hub/options.ts";
import { type ModelName, parseModelName } from "../names/parse-name.ts";
import {
  type CachedModel,
  type CachedModels,
  entryName,
  type LibraryOptions,
  type PackedEntry,
  packedSizes,
} from "./find-models.ts";

/** Beginning of the names of folders that are being removed. */
const REMOVED = ".building-removed-";

/** Result of `removeModels`. */
export interface Removal {
  /** Bytes of files and packed weights that no other model uses. */
  readonly bytes: number;
  readonly packed: readonly PackedEntry[];
}

/**
 * Removes models from the caches, with the packed weights that were made from them alone. Of a model elsewhere only the
 * packed weights are removed.
 *
 * @param listed - of `listModels`, just before; packed weights that another of its models uses stay
 * @throws {ReadMeError} `ERR_MODEL_IN_USE` when a process has one of them open; nothing is removed then.
 *   `ERR_WRITE_FAILED` when a file cannot be removed
 */
export async function removeModels(
  models: readonly CachedModel[],
  listed: CachedModels,
  options: LibraryOptions = {},
): Promise<Removal> {
  const ownCache = resolveCacheFolder(options.cacheFolder);
  const caches = new Map<string, HubCache>();
  for (const { repository } of models) {
    if (repository !== undefined) caches.set(repository, new HubCache(hubCacheFolder(), repository));
  }
  const paths = models.flatMap(({ path, indexedPaths }) => [path, ...indexedPaths]);
  const folders = [...caches.values()].map(({ folder }) => folder);
  const reserved = [...new Set([...paths, ...folders])];
  const reservation = await reserveRemoval(ownCache, reserved);
  try {
    const packed = packedOfAlone(models, listed);
    let bytes = 0;
    for (const model of models) {
      const cache = model.repository === undefined ? undefined : caches.get(model.repository);
      if (cache !== undefined) bytes += await removeFromHub(model, cache);
      else if (model.place === "package") {
        await removeFolder(dirname(model.path));
        bytes += model.bytes;
      }
    }
    for (const { kind, key, bytes: size } of packed) {
      await removeFolder(join(ownCache, kind, key));
      bytes += size;
    }
    await removeMemos(models, ownCache);
    await forgetModels(ownCache, reserved);
    return { bytes, packed };
  } catch (cause) {
    if (cause instanceof ReadMeError) throw cause;
    const message = messageOf(cause);
    throw new ReadMeError("ERR_WRITE_FAILED", `Not everything could be removed (${message})`, { cause });
  } finally {
    await reservation.release();
  }
}

/** Removes packed data that belongs to no model. @returns its bytes */
export async function removeUnclaimed(
  entries: readonly PackedEntry[],
  { cacheFolder }: LibraryOptions = {},
): Promise<number> {
  for (const { kind, key } of entries) await removeFolder(join(resolveCacheFolder(cacheFolder), kind, key));
  return entries.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Selects packed data that no other model uses. Two models with the same content share theirs. */
function packedOfAlone(models: readonly CachedModel[], listed: CachedModels): readonly PackedEntry[] {
  const removed = new Set(models.map(({ path }) => path));
  const kept = listed.models.filter(({ path, isComplete }) => !removed.has(path) && isComplete);
  const used = new Set(kept.flatMap(({ packed }) => packed.map(entryName)));
  const own = new Map(models.flatMap(({ packed }) => packed.map((entry) => [entryName(entry), entry])));
  return [...own].flatMap(([name, entry]) => (used.has(name) ? [] : [entry]));
}

/** Removes a model's files from a snapshot, then the contents that no other snapshot uses. @returns the freed bytes */
async function removeFromHub({ commit, files }: CachedModel, cache: HubCache): Promise<number> {
  if (commit === undefined) return removeRepository(cache);
  const snapshot = cache.snapshot(commit);
  const blobs = new Map<string, string>();
  let bytes = 0;
  for (const name of files) {
    const path = join(snapshot, name);
    const blob = await blobOf(path, cache);
    if (blob === undefined) bytes += (await stat(path).catch(() => undefined))?.size ?? 0;
    else blobs.set(blob, path);
  }
  for (const name of files) await rm(join(snapshot, name), { force: true });
  const used = await usedBlobs(cache);
  for (const blob of blobs.keys()) if (!used.has(blob)) bytes += await removeFile(blob);
  if (await holdsWeights(cache, commit)) return bytes;
  await removeFolder(snapshot);
  await rm(join(cache.folder, ".no_exist", commit), { recursive: true, force: true });
  const revisions = await cache.revisions();
  for (const [name, target] of revisions) {
    if (target === commit) await rm(join(cache.folder, "refs", name), { force: true });
  }
  const left = await readdir(join(cache.folder, "snapshots")).catch(() => []);
  return left.length > 0 ? bytes : bytes + (await removeRepository(cache));
}

/** Whether a snapshot still has a file that is worth keeping it for. */
async function holdsWeights(cache: HubCache, commit: string): Promise<boolean> {
  return [...(await cache.filesOf(commit))].some((name) => /\.(?:gguf|safetensors|bin|onnx)$/i.test(name));
}

/** Removes everything of a repository, unfinished downloads included. @returns their bytes */
async function removeRepository({ folder }: HubCache): Promise<number> {
  const blobs = join(folder, "blobs");
  const names = await readdir(blobs).catch(() => []);
  const sizes = await Promise.all(names.map((name) => lstat(join(blobs, name)).catch(() => undefined)));
  await removeFolder(folder);
  return sizes.reduce((sum, state) => sum + (state?.size ?? 0), 0);
}

/** Finds the blobs of all snapshots of a repository. */
async function usedBlobs(cache: HubCache): Promise<ReadonlySet<string>> {
  const root = join(cache.folder, "snapshots");
  const used = new Set<string>();
  for (const name of await readdir(root, { recursive: true }).catch(() => [])) {
    const blob = await blobOf(join(root, name), cache);
    if (blob !== undefined) used.add(blob);
  }
  return used;
}

/** Finds the blob that a snapshot's file is a link to, symbolic or hard; `undefined` for a copy or another place. */
async function blobOf(path: string, cache: HubCache): Promise<string | undefined> {
  const blobs = join(cache.folder, "blobs");
  const state = await lstat(path).catch(() => undefined);
  if (state?.isSymbolicLink() === true) {
    const target = resolve(dirname(path), await readlink(path));
    return dirname(target) === resolve(blobs) ? target : undefined;
  }
  if (state?.isFile() !== true || state.nlink < 2) return undefined;
  for (const name of await readdir(blobs).catch(() => [])) {
    const blob = join(resolve(blobs), name);
    const other = await lstat(blob).catch(() => undefined);
    if (other?.ino === state.ino && other.dev === state.dev) return blob;
  }
  return undefined;
}

async function removeFile(path: string): Promise<number> {
  const state = await lstat(path).catch(() => undefined);
  await rm(path, { force: true });
  await rmdir(dirname(path)).catch(() => undefined); // only when it is empty
  return state?.size ?? 0;
}

/** Renames a folder before it is removed, so that no other process sees half of it. */
async function removeFolder(path: string): Promise<void> {
  await removeAbandoned(dirname(path), REMOVED);
  const aside = join(dirname(path), `${REMOVED}${randomUUID()}`);
  try {
    await rename(path, aside);
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return;
    throw error;
  }
  await rm(aside, { recursive: true, force: true });
}

/** Removes the remembered hashes of a model's files. */
async function removeMemos(models: readonly CachedModel[], cacheFolder: string): Promise<void> {
  for (const { place, path, file, files } of models) {
    const root = file === undefined ? path : dirname(path);
    const names = place === "local" ? [] : files.map((name) => (file === undefined ? join(root, name) : path));
    for (const name of names) await rm(memoOf(cacheFolder, name), { force: true });
  }
}

/** The models that a name stands for among those on this machine. */
export interface Selection {
  readonly models: readonly CachedModel[];
  /** A similar name of a model that is here, when there is none of this name. */
  readonly near: string | undefined;
}

/**
 * Selects models by a name that commands take. A short name or a repository without more selects all its weights and
 * revisions. Pure: whether a path exists is passed in.
 */
export function selectModels(
  models: readonly CachedModel[],
  name: string,
  exists: (path: string) => boolean,
): Selection {
  const parsed = parseModelName(name, exists);
  const found = models.filter((model) => model.name === name || isMeant(model, parsed));
  if (found.length > 0) return { models: found, near: undefined };
  return { models: [], near: nearestName(name, [...new Set(models.map((model) => model.name))]) };
}

function isMeant(model: CachedModel, name: ModelName): boolean {
  switch (name.kind) {
    case "path":
      return resolve(name.path) === model.path;
    case "known": {
      const sources = name.source === undefined ? name.model.sources : [name.source];
      const isFromHub = sources.some(({ repository, file }) => isOf(model, repository) && sameFile(model, file));
      const isFile = name.source === undefined || name.source.file === model.file;
      return isFromHub || (model.place === "package" && isFile && model.name === name.model.name);
    }
    case "hub": {
      const { repository, revision, file, quantization } = name;
      const isFile = file === undefined || sameFile(model, file);
      const isType =
        quantization === undefined || model.file?.toLowerCase().includes(quantization.toLowerCase()) === true;
      return isOf(model, repository) && isRevision(model, revision) && isFile && isType;
    }
    case "unknown":
      return false;
    default:
      throw new TypeError(`Unknown kind of name: ${String(name satisfies never)}`);
  }
}

function isOf(model: CachedModel, repository: string): boolean {
  return model.repository?.toLowerCase() === repository.toLowerCase();
}

/** Compares files; an interrupted download is of any file. */
function sameFile(model: CachedModel, file: string | undefined): boolean {
  return model.file === file || model.commit === undefined;
}

function isRevision({ revisions, commit }: CachedModel, revision: string | undefined): boolean {
  if (revision === undefined || revisions.includes(revision)) return true;
  return /^[0-9a-f]{7,40}$/.test(revision) && commit?.startsWith(revision) === true;
}

// Keeps the packed weights in the cache below a size: what was not used for longest is dropped, and packed again when
// its model is opened.

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
  for (const entry of entries.toSorted(
    (a, b) => a.lastUsedMs - b.lastUsedMs || (entryName(a) < entryName(b) ? -1 : 1),
  )) {
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
      const models = index.filter(({ entries }) => entries.some((each) => entryName(each) === name));
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

interface TrimOptions extends LibraryOptions {
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
