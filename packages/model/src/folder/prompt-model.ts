// Models without their weights: what turns a prompt into tokens and experts.

import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { fileHash, fingerprintOf } from "../cache/cached-data.ts";
import { exists, together } from "../files/read-file.ts";
import { GgufFile } from "../gguf/gguf-tensor-store.ts";
import { openExpertSet } from "../lora/lora-set.ts";
import { MIXTURE_NAME } from "../weights/locate-mixture.ts";
import { DENSE_NAME } from "../weights/locate-weights.ts";
import { CONFIG_FILE, type Model, ROUTER_FILE, TEXT_FILES } from "./model.ts";
import { findModel, openModel, readFolder } from "./open-model.ts";
import { openRouterFile, parseReadMe } from "./read-me-folder.ts";

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
  const { gguf, folder } = await findModel(path);
  if (gguf !== undefined) return openModel(path);
  const { fields, ...settings } = await readFolder(folder);
  // Conversions by the paper's own code have this field.
  if (fields.has("N_cluster")) return openModel(path);
  const { config } = settings;
  const readMe = fields.object("readme");
  if (!readMe) {
    const experts = { names: [config.mixture ? MIXTURE_NAME : DENSE_NAME] };
    const loraSet = await openExpertSet(folder, config);
    return { path: folder, ...settings, experts, loraSet, ...NO_ROUTER, ...together([loraSet]) };
  }
  const { experts, router: routerConfig } = parseReadMe(readMe, config);
  const router = routerConfig ? await openRouterFile(folder, routerConfig) : NO_ROUTER;
  return { path: folder, ...settings, experts, loraSet: undefined, ...router };
}

const NO_ROUTER = { router: undefined, fingerprint: async () => "", close: async () => undefined };

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
    // The third is of a router, which no GGUF file has.
    return hashOf(await ggufHeaderHash(path), JSON.stringify(names), "");
  }
  const present: string[] = [];
  for (const name of [CONFIG_FILE, ...TEXT_FILES, ROUTER_FILE]) if (await exists(join(path, name))) present.push(name);
  const files = await fingerprintOf(present.map((name) => join(path, name)));
  // A router in the file of the weights is none of these files.
  const inWeights = router && !present.includes(ROUTER_FILE) ? await model.fingerprint(cacheFolder) : "";
  return hashOf(await files(cacheFolder), JSON.stringify([present, names]), inWeights);
}

/** Hashes what a GGUF file has before its tensors. */
async function ggufHeaderHash(path: string): Promise<string> {
  const file = await GgufFile.open(path);
  await file.close();
  return fileHash(path, Math.min(...Array.from(file.tensors.values(), ({ offset }) => offset)));
}

function hashOf(...parts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part}\n`);
  return hash.digest("hex");
}
