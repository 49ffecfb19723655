// Models in the hub's cache and in ours, found by their files alone. Other tools fill the hub's cache as well.

import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { readJsonFile } from "../files/text-file.ts";
import { BACKBONE_FILE, CONFIG_FILE, INDEX_FILE, SINGLE_FILE } from "../folder/model.ts";
import { GgufFile } from "../gguf/gguf-file.ts";
import { fileSize, HubCache } from "../hub/hub-cache.ts";
import { modelFiles, modelPath } from "../hub/model-files.ts";
import { ADAPTER_FILE } from "../low-rank/low-rank-expert.ts";
import { sourceFor } from "../names/known-model.ts";
import { KNOWN_MODELS } from "../names/known-models.ts";
import { fullName } from "../names/parse-name.ts";
import { packagedPath, PRESET_FOLDER, PRESETS } from "../names/preset.ts";
import type { FoundModel } from "./cached-model.ts";

const MAX_CONFIG_BYTES = 16 << 20;
const WEIGHT_FILES = [BACKBONE_FILE, SINGLE_FILE, INDEX_FILE];

/** Finds the models and adapters in the hub's cache. */
export async function hubModels(cacheFolder: string): Promise<readonly FoundModel[]> {
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
      name: repository,
      place: "hub",
      kind: "model",
      repository,
      revisions: [],
      commit: undefined,
      file: undefined,
      family: undefined,
      path: cache.folder,
      files: [],
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

/** Finds files of packages in our cache. */
export async function packageModels(cacheFolder: string): Promise<readonly FoundModel[]> {
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
      name: known?.name ?? preset.name,
      place: "package",
      kind: "model",
      repository: undefined,
      revisions: [],
      commit: undefined,
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
export async function localModel(path: string, lastUsedMs: number): Promise<FoundModel> {
  const isThere = (await stat(path).catch(() => undefined)) !== undefined;
  return {
    name: path,
    place: "local",
    kind: "model",
    repository: undefined,
    revisions: [],
    commit: undefined,
    file: undefined,
    family: isThere ? await familyOf(path) : undefined,
    path,
    files: [],
    bytes: 0,
    isComplete: isThere,
    lastUsedMs,
  };
}

/** Whether a path is in one of the caches. */
export function isInCaches(path: string, hubCache: string, ownCache: string): boolean {
  const folders = [resolve(hubCache), join(resolve(ownCache), PRESET_FOLDER)];
  return folders.some((folder) => path.startsWith(folder + sep));
}

/** Reads the `model_type` of a folder, or the architecture of a GGUF file. */
async function familyOf(path: string): Promise<string | undefined> {
  try {
    if (isGguf(path)) return await ggufFamily(path);
    const json = await readJsonFile(join(path, CONFIG_FILE), MAX_CONFIG_BYTES);
    const family = json?.["model_type"];
    return typeof family === "string" ? family : undefined;
  } catch {
    // A damaged file can be listed and removed like any other.
    return undefined;
  }
}

async function ggufFamily(path: string): Promise<string | undefined> {
  const file = await GgufFile.open(path);
  try {
    const family = file.metadata.get("general.architecture");
    return typeof family === "string" ? family : undefined;
  } finally {
    await file.close();
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
