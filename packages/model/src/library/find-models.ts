// Models in the hub's cache and in ours, found by their files alone. Other tools fill the hub's cache as well.

import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { resolveCacheFolder } from "../cache/cache-folder.ts";
import { type EntryName, type IndexedModel, type ModelUser, readModelIndex } from "../cache/model-index.ts";
import { isWithin } from "../files/file-name.ts";
import { fileSize, readJsonFile } from "../files/read-file.ts";
import { findDraftHeadFolder } from "../folder/draft-head.ts";
import { BACKBONE_FILE, CONFIG_FILE, INDEX_FILE, SINGLE_FILE } from "../folder/model.ts";
import { ggufMetadata } from "../gguf/gguf-tensor-store.ts";
import { modelFiles, modelPath } from "../hub/download-model.ts";
import { HubCache } from "../hub/hub-cache.ts";
import { hubCacheFolder } from "../hub/options.ts";
import { ADAPTER_FILE } from "../lora/lora.ts";
import { KNOWN_MODELS, sourceFor } from "../names/known-models.ts";
import { fullName } from "../names/parse-name.ts";
import { packagedPath, PRESET_FOLDER, PRESETS } from "../names/preset.ts";

const MAX_CONFIG_BYTES = 16 << 20;
const WEIGHT_FILES = [BACKBONE_FILE, SINGLE_FILE, INDEX_FILE];

/** Parts of a model without a repository, a family or files. */
const UNPLACED = {
  kind: "model",
  repository: undefined,
  revisions: [],
  commit: undefined,
  file: undefined,
  family: undefined,
  files: [],
} as const;

/** Finds the models and adapters in the hub's cache. */
async function hubModels(cacheFolder: string): Promise<readonly FoundModel[]> {
  const names = await readdir(cacheFolder).catch(() => []);
  const repositories = names.flatMap((name) => {
    const repository = /^models--(.+)$/.exec(name)?.[1]?.replace("--", "/");
    return repository === undefined ? [] : [repository];
  });
  return (await Promise.all(repositories.map((name) => repositoryModels(cacheFolder, name)))).flat();
}

async function repositoryModels(cacheFolder: string, repository: string): Promise<readonly FoundModel[]> {
  const cache = new HubCache(cacheFolder, repository);
  const revisions = await cache.revisions();
  const found = [];
  for (const commit of await readdir(join(cache.folder, "snapshots")).catch(() => [])) {
    const names = await cache.filesOf(commit).catch(() => new Set<string>());
    const own = [...revisions].flatMap(([revision, target]) => (target === commit ? [revision] : []));
    found.push(...(await snapshotModels({ repository, commit, revisions: own }, cache.snapshot(commit), names)));
  }
  return found.length > 0 ? found : interruptedDownload(cache, repository);
}

/** Finds a download of ours that was interrupted before any weights were complete. */
async function interruptedDownload(cache: HubCache, repository: string): Promise<readonly FoundModel[]> {
  const blobs = join(cache.folder, "blobs");
  const parts = (await readdir(blobs).catch(() => [])).filter((name) => /\.readme-moe.*\.incomplete$/.test(name));
  if (parts.length === 0) return [];
  return [
    {
      ...UNPLACED,
      name: repository,
      place: "hub",
      repository,
      path: cache.folder,
      isComplete: false,
      ...(await sizeOf(parts.map((name) => join(blobs, name)))),
    },
  ];
}

type Snapshot = Pick<FoundModel, "repository" | "revisions"> & { readonly commit: string };

/** Finds what one snapshot can be opened as: its safetensors, an adapter, and each of its GGUF files. */
async function snapshotModels(
  snapshot: Snapshot,
  folder: string,
  names: ReadonlySet<string>,
): Promise<readonly FoundModel[]> {
  const models: FoundModel[] = [];
  const add = async (kind: FoundModel["kind"], file: string | undefined): Promise<void> => {
    const files = [...names].filter((name) => (file === undefined ? !isGguf(name) : name === file));
    const whole = await wholePath(snapshot, folder, names, { kind, file });
    const path = file === undefined ? folder : join(folder, file);
    models.push({
      ...snapshot,
      name: nameOf(snapshot, file),
      place: "hub",
      kind,
      file,
      family: kind === "adapter" ? undefined : await familyOf(path),
      path: whole ?? path,
      files,
      isComplete: whole !== undefined,
      ...(await sizeOf(files.map((name) => join(folder, name)))),
    });
  };
  if (WEIGHT_FILES.some((name) => names.has(name))) await add("model", undefined);
  else if (names.has(ADAPTER_FILE)) await add("adapter", undefined);
  for (const name of names) if (isGguf(name)) await add("model", name);
  return models;
}

/** Returns the path that opens the model; `undefined` when files are missing. */
async function wholePath(
  { repository = "", commit }: Snapshot,
  folder: string,
  names: ReadonlySet<string>,
  wanted: Pick<FoundModel, "kind" | "file">,
): Promise<string | undefined> {
  try {
    const source = { title: `${repository}@${commit}`, names, path: async (name: string) => join(folder, name) };
    const files = await modelFiles(source, wanted);
    return files.required.every((name) => names.has(name)) ? modelPath(folder, files) : undefined;
  } catch {
    return undefined;
  }
}

function isGguf(name: string): boolean {
  return /\.gguf$/i.test(name);
}

/** Names a model as briefly as commands understand it. */
function nameOf({ repository = "", commit, revisions }: Snapshot, file: string | undefined): string {
  if (!revisions.includes("main")) {
    return `${repository}@${revisions[0] ?? commit.slice(0, 12)}${file === undefined ? "" : `:${file}`}`;
  }
  for (const model of KNOWN_MODELS) {
    const source = model.sources.find((one) => one.repository === repository && one.file === file);
    if (source !== undefined) return source === sourceFor(model) ? model.name : fullName(model, source);
  }
  return file === undefined ? repository : `${repository}:${file}`;
}

async function packageModels(cacheFolder: string): Promise<readonly FoundModel[]> {
  const found: FoundModel[] = [];
  for (const preset of PRESETS) {
    const path = packagedPath(preset, cacheFolder);
    const folder = dirname(path);
    // Parts of an unfinished download are beside the file.
    const files = await readdir(folder).catch(() => []);
    if (files.length === 0) continue;
    const known = KNOWN_MODELS.find(({ name }) => name.replace(":", "-") === preset.name);
    const sizes = await sizeOf(files.map((name) => join(folder, name)));
    found.push({
      ...UNPLACED,
      name: known?.name ?? preset.name,
      place: "package",
      file: basename(path),
      family: await familyOf(path),
      path,
      files,
      isComplete: (await fileSize(path)) === preset.packaged.fileBytes,
      ...sizes,
    });
  }
  return found;
}

/** Describes a model outside of the caches, of which the cache has packed weights. */
async function localModel(path: string, lastUsedMs: number): Promise<FoundModel> {
  const isThere = (await stat(path).catch(() => undefined)) !== undefined;
  return {
    ...UNPLACED,
    name: path,
    place: "local",
    family: isThere ? await familyOf(path) : undefined,
    path,
    bytes: 0,
    isComplete: isThere,
    lastUsedMs,
  };
}

function isInCaches(path: string, hubCache: string, ownCache: string): boolean {
  const folders = [resolve(hubCache), join(resolve(ownCache), PRESET_FOLDER)];
  return folders.some((folder) => path.startsWith(folder + sep));
}

/** Reads the `model_type` of a folder, or the architecture of a GGUF file. */
async function familyOf(path: string): Promise<string | undefined> {
  try {
    const family = isGguf(path)
      ? (await ggufMetadata(path)).get("general.architecture")
      : (await readJsonFile(join(path, CONFIG_FILE), MAX_CONFIG_BYTES))?.["model_type"];
    return typeof family === "string" ? family : undefined;
  } catch {
    // A damaged file can be listed and removed like any other.
    return undefined;
  }
}

/** Adds up the sizes of files, and finds the time of the last that was written. */
async function sizeOf(paths: readonly string[]): Promise<Pick<FoundModel, "bytes" | "lastUsedMs">> {
  const states = await Promise.all(paths.map((path) => stat(path).catch(() => undefined)));
  return {
    bytes: states.reduce((sum, state) => sum + (state?.size ?? 0), 0),
    lastUsedMs: Math.max(0, ...states.map((state) => state?.mtimeMs ?? 0)),
  };
}

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
  const recordsOf = (model: FoundModel) => index.filter((record) => ownerOf(found, record) === model);
  const models = await Promise.all(found.map((model) => described(model, recordsOf(model), sizes)));
  const claimed = new Set(models.flatMap(({ packed }) => packed.map(entryName)));
  return {
    models: models.toSorted((a, b) => b.lastUsedMs - a.lastUsedMs || (a.name < b.name ? -1 : 1)),
    unclaimed: [...sizes.values()].filter((entry) => !claimed.has(entryName(entry))),
  };
}

/** Finds the model that a path belongs to: the GGUF file, else the folder that it is in. */
function ownerOf(found: readonly FoundModel[], { path }: Pick<IndexedModel, "path">): FoundModel | undefined {
  const owners = found.filter((model) => model.path === path || isWithin(model.path, path));
  return owners.toSorted((a, b) => b.path.length - a.path.length)[0];
}

async function described(
  model: FoundModel,
  records: readonly IndexedModel[],
  sizes: ReadonlyMap<string, PackedEntry>,
): Promise<CachedModel> {
  const entries = new Map(records.flatMap((record) => record.entries.map((entry) => [entryName(entry), entry])));
  return {
    ...model,
    lastUsedMs: Math.max(model.lastUsedMs, ...records.map(({ lastUsedMs }) => lastUsedMs)),
    packed: [...entries.keys()].flatMap((name) => sizes.get(name) ?? []),
    users: records.flatMap(({ users }) => users),
    indexedPaths: records.map(({ path }) => path),
    draftHead: await findDraftHeadFolder(model.path),
  };
}

/** Data that was made from a model: its packed weights, or those of a router or of a lora. */
export interface PackedEntry {
  readonly kind: string;
  readonly key: string;
  readonly bytes: number;
}

/** A model that is on this machine. */
export interface CachedModel {
  /** Name for commands and `ReadMeEngine.open`: a short name, else a repository of the hub, else a path. */
  readonly name: string;
  /** Place of its files: the hub's cache, ours (weights of a package), or anywhere else. */
  readonly place: "hub" | "package" | "local";
  readonly kind: "model" | "adapter";
  /** `organisation/name`; `undefined` outside of the hub's cache. */
  readonly repository: string | undefined;
  /** Branches and tags that stand for this commit. */
  readonly revisions: readonly string[];
  readonly commit: string | undefined;
  /** GGUF file in the repository; `undefined` for safetensors. */
  readonly file: string | undefined;
  /** `model_type` of the config, or architecture of the GGUF file; `undefined` when neither can be read. */
  readonly family: string | undefined;
  /** The folder or the GGUF file, as it is opened. */
  readonly path: string;
  /** The model's files, relative to its snapshot; empty outside of caches. */
  readonly files: readonly string[];
  /** Size of the files; 0 outside of caches, where they are not counted. */
  readonly bytes: number;
  /** Whether all files are there; false for interrupted downloads, and for paths that do not exist any more. */
  readonly isComplete: boolean;
  /** Time of the last use that the cache knows of, else of the download, in ms since 1970. */
  readonly lastUsedMs: number;
  readonly packed: readonly PackedEntry[];
  readonly users: readonly ModelUser[];
  /** Paths under which the cache knows the model. */
  readonly indexedPaths: readonly string[];
  /** Folder of its draft head; `undefined` if none is beside it. */
  readonly draftHead: string | undefined;
}

/** Everything on this machine that models take. */
export interface CachedModels {
  /** The last used first. */
  readonly models: readonly CachedModel[];
  /** Packed data of models that the cache does not know, such as those of earlier versions. */
  readonly unclaimed: readonly PackedEntry[];
}

/** A model in a folder of a cache, before the cache's own notes are added. */
type FoundModel = Omit<CachedModel, "packed" | "users" | "indexedPaths" | "draftHead">;

/** Folders of the cache whose entries are made from models. */
const PACKED_KINDS = ["kernels", "experts"];

export function entryName({ kind, key }: EntryName): string {
  return `${kind}/${key}`;
}

/** Measures the entries of packed data, by their names. */
export async function packedSizes(cacheFolder: string): Promise<ReadonlyMap<string, PackedEntry>> {
  const sizes = new Map<string, PackedEntry>();
  for (const kind of PACKED_KINDS) {
    for (const key of await readdir(join(cacheFolder, kind)).catch(() => [])) {
      if (!/^[0-9a-f]+$/.test(key)) continue;
      const folder = join(cacheFolder, kind, key);
      const names = await readdir(folder).catch(() => []);
      const files = await Promise.all(names.map((name) => stat(join(folder, name)).catch(() => undefined)));
      const bytes = files.reduce((sum, file) => sum + (file?.size ?? 0), 0);
      sizes.set(entryName({ kind, key }), { kind, key, bytes });
    }
  }
  return sizes;
}
