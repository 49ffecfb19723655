import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { Fields } from "../config/fields.ts";
import { isJsonObject, type JsonObject, readJsonFile } from "../files/text-file.ts";
import { BACKBONE_FILE, expertFile, ROUTER_FILE } from "../folder/read-me-folder.ts";

const [CONFIG, SINGLE, INDEX] = ["config.json", "model.safetensors", "model.safetensors.index.json"] as const;
const MAX_JSON_BYTES = 100 << 20;
const MAX_EXPERTS = 65_536;

/** Files that a model is read from where it has them. */
const OPTIONAL: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
];

/** Where files are: in a repository, or in a snapshot of the cache. */
export interface FileSource {
  /** For messages. */
  readonly title: string;
  readonly names: { has(name: string): boolean } & Iterable<string>;
  /** Where the file of this name, one of `names`, can be read. */
  path(name: string): Promise<string>;
}

/** Which files make a model. */
export interface ModelFiles {
  /** It cannot be opened without; may name files that the source lacks. */
  readonly required: readonly string[];
  readonly optional: readonly string[];
}

/**
 * Finds the files that `openModel` reads, in the order in which it looks: a Read-ME folder's, one safetensors file, an
 * index and its shards, or the only GGUF file.
 *
 * @throws {ReadMeError} `ERR_MODEL_INVALID` when there are several GGUF files to choose from, or config or index do
 *   not make sense; `ERR_MODEL_UNSUPPORTED` when the weights are of another kind
 */
export async function modelFiles(source: FileSource, file: string | undefined): Promise<ModelFiles> {
  const { names } = source;
  if (file !== undefined) return { required: [file], optional: [] };
  if (names.has(BACKBONE_FILE)) return { required: [CONFIG, ...(await readMeFiles(source))], optional: OPTIONAL };
  if (names.has(SINGLE)) return { required: [CONFIG, SINGLE], optional: OPTIONAL };
  if (names.has(INDEX)) return { required: [CONFIG, INDEX, ...(await shards(source))], optional: OPTIONAL };
  return withoutSafetensors(source);
}

async function readMeFiles(source: FileSource): Promise<readonly string[]> {
  if (!source.names.has(CONFIG)) return [BACKBONE_FILE];
  const [path, json] = await readJson(source, CONFIG);
  const readme = new Fields(path, json).object("readme");
  if (readme === undefined) return [BACKBONE_FILE];
  const numExperts = readme.size("num_experts");
  if (numExperts > MAX_EXPERTS) throw readme.invalid(`${numExperts} experts are more than ${MAX_EXPERTS}`);
  // The hub's names have slashes on every system.
  const experts = Array.from({ length: numExperts }, (_, expert) => expertFile(expert).replaceAll("\\", "/"));
  return [BACKBONE_FILE, ...experts, ...(readme.has("router") ? [ROUTER_FILE] : [])];
}

async function shards(source: FileSource): Promise<readonly string[]> {
  const [path, json] = await readJson(source, INDEX);
  const map = json["weight_map"];
  const names = isJsonObject(map) ? [...new Set(Object.values(map))] : [];
  if (names.length > 0 && names.every((name) => typeof name === "string")) return names;
  throw new ReadMeError("ERR_MODEL_INVALID", `${path}: expected \`weight_map\` to name the file of each tensor`);
}

function withoutSafetensors({ names, title }: FileSource): ModelFiles {
  const ggufs = [...names].filter((name) => name.toLowerCase().endsWith(".gguf"));
  if (ggufs.length === 1) return { required: ggufs, optional: [] };
  if (ggufs.length > 1) {
    const some = ggufs.slice(0, 20).map((name) => JSON.stringify(name));
    const list = some.join(", ") + (ggufs.length > some.length ? ", …" : "");
    throw new ReadMeError("ERR_MODEL_INVALID", `${title}: has several GGUF files; choose one as \`file\`: ${list}`);
  }
  if (names.has("pytorch_model.bin") || names.has("pytorch_model.bin.index.json")) {
    const message = `${title}: has PyTorch's pickled weights, which are not read; it needs safetensors or GGUF`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  return { required: [CONFIG, SINGLE], optional: OPTIONAL };
}

async function readJson(source: FileSource, name: string): Promise<readonly [string, JsonObject]> {
  const path = await source.path(name);
  const json = await readJsonFile(path, MAX_JSON_BYTES);
  if (json === undefined) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`);
  return [path, json];
}

/** What to hand to `openModel`: the GGUF file where that is all, else the folder. */
export function modelPath(snapshot: string, { required: [first = "", ...others] }: ModelFiles): string {
  return others.length === 0 ? join(snapshot, first) : snapshot;
}
