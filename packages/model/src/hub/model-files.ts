import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { MOST } from "../config/bounds.ts";
import { Fields } from "../config/fields.ts";
import { unsupported } from "../files/errors.ts";
import { isJsonObject, type JsonObject, readJsonFile } from "../files/text-file.ts";
import {
  BACKBONE_FILE,
  CONFIG_FILE,
  expertFile,
  INDEX_FILE,
  ROUTER_FILE,
  SINGLE_FILE,
  TEXT_FILES,
} from "../folder/model.ts";

import { ADAPTER_CONFIG_FILE, ADAPTER_FILE } from "../low-rank/low-rank-expert.ts";
import { SET_FILE } from "../low-rank/low-rank-set.ts";
import { parseSetFile } from "../low-rank/set-file.ts";
import { chooseOnnxFile, dataFilesOf, ONNX_MODEL_TYPES } from "../onnx/onnx-names.ts";
import type { RepositoryKind } from "./options.ts";

const MAX_JSON_BYTES = 100 << 20;

/** Place of a model's files: a repository, or a snapshot of the cache. */
export interface FileSource {
  /** Name of the model in messages. */
  readonly title: string;
  readonly names: { has(name: string): boolean } & Iterable<string>;
  /** Returns the path at which the file of this name, one of `names`, can be read. */
  path(name: string): Promise<string>;
}

/** The files that make a model. */
export interface ModelFiles {
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
  if (names.has(SINGLE_FILE)) return { required: [CONFIG_FILE, SINGLE_FILE], optional: TEXT_FILES };
  if (names.has(INDEX_FILE)) {
    return { required: [CONFIG_FILE, INDEX_FILE, ...(await shards(source))], optional: TEXT_FILES };
  }
  return withoutSafetensors(source);
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the adapter's weights are pickled */
function adapterFiles({ names, title }: FileSource): ModelFiles {
  if (!names.has(ADAPTER_FILE) && names.has("adapter_model.bin")) {
    const message = `${title}: has PyTorch's pickled adapter_model.bin, which is not read; it needs ${ADAPTER_FILE}`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  return { required: [ADAPTER_CONFIG_FILE, ADAPTER_FILE], optional: [] };
}

/** Lists the files of a set of low-rank experts. */
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
  const [path, json] = await readJson(source, INDEX_FILE);
  const map = json["weight_map"];
  const names = isJsonObject(map) ? [...new Set(Object.values(map))] : [];
  if (names.length > 0 && names.every((name) => typeof name === "string")) return names;
  throw new ReadMeError("ERR_MODEL_INVALID", `${path}: expected \`weight_map\` to name the file of each tensor`);
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
  if (ONNX_MODEL_TYPES.includes(modelType)) return;
  throw unsupported(path, `is of the family ${modelType}; read from ONNX are ${ONNX_MODEL_TYPES.join(", ")}`);
}

async function withoutSafetensors(source: FileSource): Promise<ModelFiles> {
  const { names, title } = source;
  const ggufs = [...names].filter((name) => name.toLowerCase().endsWith(".gguf"));
  // A cache may have this file alone of a repository with safetensors, unless it knows that there are none.
  if (ggufs.length === 1) return { required: ggufs, optional: [BACKBONE_FILE, SINGLE_FILE, INDEX_FILE] };
  if (ggufs.length > 1) {
    const message = `${title}: has several GGUF files; choose one as \`file\`: ${listed(ggufs, 20)}`;
    throw new ReadMeError("ERR_MODEL_INVALID", message);
  }
  const onnx = chooseOnnxFile(names);
  if (onnx !== undefined) return onnxFiles(source, onnx);
  if (names.has("pytorch_model.bin") || names.has("pytorch_model.bin.index.json")) {
    const message = `${title}: has PyTorch's pickled weights, which are not read; it needs safetensors, GGUF or ONNX`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  return { required: [CONFIG_FILE, SINGLE_FILE], optional: TEXT_FILES };
}

async function readJson(source: FileSource, name: string): Promise<readonly [string, JsonObject]> {
  const path = await source.path(name);
  const json = await readJsonFile(path, MAX_JSON_BYTES);
  if (json === undefined) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`);
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
