// Models without their weights: what turns a prompt into tokens and experts.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { SamplingDefaults } from "@readme-moe/core";
import { fingerprintOf } from "../cache/cached-data.ts";
import { Fields } from "../config/fields.ts";
import { ggufConfig } from "../config/gguf-config.ts";
import type { ModelConfig } from "../config/model-config.ts";
import { parseConfig } from "../config/parse-config.ts";
import { generationDefaults, ggufDefaults } from "../config/sampling-defaults.ts";
import { readJsonFile } from "../files/read-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { openExpertSet } from "../lora/lora-set.ts";
import { SafetensorsFile } from "../safetensors/safetensors-file.ts";
import { loadFolderText, loadGgufText, type ModelText, poolingText } from "../text/load-text.ts";
import { DENSE_NAME, locateRouter, MIXTURE_NAME } from "../weights/locate-weights.ts";
import { CONFIG_FILE, type Model, once, ROUTER_FILE, TEXT_FILES } from "./model.ts";
import { findModel, MAX_CONFIG_BYTES, openModel } from "./open-model.ts";
import { parseReadMe } from "./read-me-folder.ts";
import { readPooling } from "./read-pooling.ts";

/** The parts of a model that its prompts need. */
export interface PromptModel extends Pick<
  Model,
  "path" | "config" | "router" | "loraSet" | "samplingDefaults" | "loadText" | "close"
> {
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
  const place = await findModel(path);
  if (place.gguf !== undefined) return openGguf(place.gguf, place.folder);
  const { folder } = place;
  const configPath = join(folder, CONFIG_FILE);
  const json = await readJsonFile(configPath, MAX_CONFIG_BYTES);
  const fields = json === undefined ? undefined : new Fields(configPath, json);
  // Without config.json, `openModel` says what is wrong with the folder.
  if (fields === undefined || fields.raw(OFFICIAL_FIELD) !== undefined) return openModel(path);
  const generationPath = join(folder, "generation_config.json");
  const generation = await readJsonFile(generationPath, MAX_CONFIG_BYTES);
  const defaults = generation && new Fields(generationPath, generation);
  const text = once(() => loadFolderText(folder));
  const pooling = await readPooling(folder, fields, text);
  const config = { ...parseConfig(configPath, json, defaults), pooling };
  const loadText = async (): Promise<ModelText> => poolingText(folder, config, await text());
  return openFolder(folder, fields, { config, loadText, samplingDefaults: () => generationDefaults(defaults) });
}

/** Field of config.json that conversions by the paper's own code have. */
const OFFICIAL_FIELD = "N_cluster";

async function openFolder(
  path: string,
  fields: Fields,
  settings: Pick<PromptModel, "config" | "loadText" | "samplingDefaults">,
): Promise<PromptModel> {
  const { config } = settings;
  const readMe = fields.object("readme");
  if (!readMe) {
    const loraSet = await openExpertSet(path, config);
    const close = async (): Promise<void> => loraSet?.close();
    return { path, ...settings, ...plainParts(config), loraSet, close };
  }
  const { experts, router: routerConfig } = parseReadMe(readMe, config);
  const rest = { path, ...settings, experts, loraSet: undefined };
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
    const loraSet = folder === undefined ? undefined : await openExpertSet(folder, config);
    const close = async (): Promise<void> => void (await Promise.all([store.close(), loraSet?.close()]));
    const loadText: Model["loadText"] = async () => poolingText(path, config, loadGgufText(path, store.file.metadata));
    const samplingDefaults = (): SamplingDefaults => ggufDefaults(path, store.file.metadata);
    return { path, config, samplingDefaults, ...plainParts(config), loraSet, loadText, close };
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
