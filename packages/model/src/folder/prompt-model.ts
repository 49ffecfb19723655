// Models without their weights: what turns a prompt into tokens and experts.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, readdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { fingerprintOf } from "../cache/fingerprint.ts";
import { Fields } from "../config/fields.ts";
import { ggufConfig } from "../config/gguf-config.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { parseConfig } from "../config/parse-config.ts";
import { fileError } from "../files/errors.ts";
import { readJsonFile } from "../files/text-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { openExpertSet } from "../low-rank/expert-set.ts";
import { SafetensorsFile } from "../safetensors/read-safetensors.ts";
import { loadFolderText, loadGgufText } from "../text/load-text.ts";
import { DENSE_NAME } from "../weights/backbone.ts";
import { MIXTURE_NAME } from "../weights/mixture.ts";
import { locateRouter } from "../weights/router-weights.ts";
import { CONFIG_FILE, type Model, ROUTER_FILE, TEXT_FILES } from "./model.ts";
import { MAX_CONFIG_BYTES, openModel } from "./open-model.ts";
import { parseReadMe } from "./read-me-folder.ts";

/** The parts of a model that its prompts need. */
export interface PromptModel extends Pick<Model, "path" | "config" | "router" | "lowRank" | "loadText" | "close"> {
  /** Names of the experts in its FFNs; one for a dense model. */
  readonly experts: { readonly names: readonly string[] };
  /** Returns a hash in hex of what its router is made from, which `cacheFolder` remembers. */
  fingerprint(cacheFolder: string): Promise<string>;
}

/**
 * Opens the parts of a model that its prompts need: config, tokenizer, chat template and router. Files of weights are
 * not opened, and need not be there, except for a GGUF file, which holds all parts, and for conversions by the paper's
 * own code, whose router is in the file of the weights.
 *
 * @throws {ReadMeError} as `openModel`
 */
export async function openPromptModel(path: string): Promise<PromptModel> {
  if (typeof path !== "string" || path === "") throw new TypeError("Expected `path` to name a folder or a GGUF file");
  const absolute = resolve(path);
  const failed = (cause: unknown): never => {
    throw fileError(absolute, cause);
  };
  if (!(await stat(absolute).catch(failed)).isDirectory()) {
    return /\.gguf$/i.test(absolute) ? openGguf(absolute) : openModel(absolute);
  }
  const configPath = join(absolute, CONFIG_FILE);
  const json = await readJsonFile(configPath, MAX_CONFIG_BYTES);
  if (json === undefined) {
    const [gguf, second] = (await readdir(absolute)).filter((name) => name.toLowerCase().endsWith(".gguf"));
    // `openModel` says what is wrong with the folder.
    return gguf === undefined || second !== undefined ? openModel(absolute) : openGguf(join(absolute, gguf), absolute);
  }
  const fields = new Fields(configPath, json);
  if (fields.raw(OFFICIAL_FIELD) !== undefined) return openModel(absolute);
  const generationPath = join(absolute, "generation_config.json");
  const generation = await readJsonFile(generationPath, MAX_CONFIG_BYTES);
  return openFolder(
    absolute,
    fields,
    parseConfig(configPath, json, generation && new Fields(generationPath, generation)),
  );
}

/** Field of config.json that conversions by the paper's own code have. */
const OFFICIAL_FIELD = "embedding_dim";

async function openFolder(path: string, fields: Fields, config: ModelConfig): Promise<PromptModel> {
  const readMe = fields.object("readme");
  const loadText = (): ReturnType<Model["loadText"]> => loadFolderText(path);
  if (!readMe) {
    const lowRank = await openExpertSet(path, config);
    const close = async (): Promise<void> => lowRank?.close();
    return { path, config, ...plainParts(config), lowRank, loadText, close };
  }
  const { experts, router: routerConfig } = parseReadMe(readMe, config);
  const rest = { path, config, experts, lowRank: undefined, loadText };
  if (!routerConfig) return { ...rest, router: undefined, fingerprint: noFingerprint, close: async () => undefined };
  const store = await SafetensorsFile.open(join(path, ROUTER_FILE));
  try {
    const router = locateRouter(store, "", routerConfig);
    const tensors = await fingerprintOf([store.path]);
    const fingerprint = async (cacheFolder: string): Promise<string> =>
      hashOf(await tensors(cacheFolder), JSON.stringify(routerConfig));
    return { ...rest, router, fingerprint, close: () => store.close() };
  } catch (error) {
    await store.close();
    throw error;
  }
}

async function openGguf(path: string, folder?: string): Promise<PromptModel> {
  const store = await GgufTensorStore.open(path);
  try {
    const config = await ggufConfig(store);
    const lowRank = folder === undefined ? undefined : await openExpertSet(folder, config);
    const close = async (): Promise<void> => void (await Promise.all([store.close(), lowRank?.close()]));
    const loadText: Model["loadText"] = async () => loadGgufText(path, store.file.metadata);
    return { path, config, ...plainParts(config), lowRank, loadText, close };
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** Parts of a model without experts in its FFNs that a prompt can choose. */
function plainParts({ mixture }: ModelConfig): Pick<PromptModel, "experts" | "router" | "fingerprint"> {
  return { experts: { names: [mixture ? MIXTURE_NAME : DENSE_NAME] }, router: undefined, fingerprint: noFingerprint };
}

async function noFingerprint(): Promise<string> {
  return "";
}

/**
 * Computes a hash in hex of what turns prompts of a model into tokens and experts, the same with and without its
 * weights. Contents of files count, not their places.
 *
 * @param cacheFolder - remembers the hashes of files
 */
export async function promptFingerprint(model: PromptModel, cacheFolder: string): Promise<string> {
  const { path, router } = model;
  const { names } = model.experts;
  if (!(await stat(path)).isDirectory()) {
    return hashOf(
      await ggufHeaderHash(path),
      JSON.stringify(names),
      router ? await model.fingerprint(cacheFolder) : "",
    );
  }
  const present: string[] = [];
  for (const name of [CONFIG_FILE, ...TEXT_FILES, ROUTER_FILE]) {
    if (await access(join(path, name)).then(isThere, isMissing)) present.push(name);
  }
  const files = await fingerprintOf(present.map((name) => join(path, name)));
  // A router in the file of the weights is none of these files.
  const inWeights = router && !present.includes(ROUTER_FILE) ? await model.fingerprint(cacheFolder) : "";
  return hashOf(await files(cacheFolder), JSON.stringify([present, names]), inWeights);
}

const isThere = (): boolean => true;
const isMissing = (): boolean => false;

/** Hashes what a GGUF file has before its tensors. */
async function ggufHeaderHash(path: string): Promise<string> {
  const store = await GgufTensorStore.open(path);
  try {
    const end = Math.min(...Array.from(store.file.tensors.values(), ({ offset }) => offset));
    const sum = createHash("sha256");
    await pipeline(createReadStream(path, { end: end - 1, highWaterMark: 1 << 20 }), sum);
    return sum.digest("hex");
  } finally {
    await store.close();
  }
}

function hashOf(...parts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part}\n`);
  return hash.digest("hex");
}
