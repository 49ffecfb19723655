// Whether a model is ours, and where its files are.

import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { HostEnv, HostLoadOptions } from "../host/host.ts";
import type { AdapterOptions } from "../options.ts";
import { locateOnHub } from "./locate-on-hub.ts";
import { hasWeights } from "./weight-names.ts";

const HUB_ID = /^[\w.-]+\/[\w.-]+$/;

/**
 * The folder or GGUF file of a model that the engine is to run; `undefined` leaves it to the host: what has an `onnx`
 * folder and no `readme` in its config, and whatever cannot be found, about which the host has its own errors.
 *
 * Looked for as the host does: the path itself, `env.localModelPath`, the cache folder, the hub.
 *
 * @param what - of a config alone, the host downloads less where the hub has a config.json
 * @throws {ReadMeError} as `downloadModel`, once a model of the hub is known to be ours
 */
export async function locate(
  id: string,
  env: HostEnv,
  options: HostLoadOptions,
  adapter: AdapterOptions,
  what: "model" | "config" = "model",
): Promise<string | undefined> {
  const cacheFolder = options.cache_dir ?? env.cacheDir ?? undefined;
  const local = env.allowLocalModels ? [resolve(id), join(env.localModelPath, id)] : [];
  const cached = cacheFolder === undefined ? [] : [join(cacheFolder, id)];
  for (const path of [...local, ...cached]) {
    const owner = existsSync(path) ? await ownerOf(path, adapter) : "nobody";
    if (owner !== "nobody") return owner === "engine" ? path : undefined;
  }
  return HUB_ID.test(id) ? locateOnHub(id, env, { ...options, cache_dir: cacheFolder }, adapter, what) : undefined;
}

/** Folders without weights belong to nobody: hosts keep a model's config and tokenizer in their cache alone. */
async function ownerOf(path: string, { engine }: AdapterOptions): Promise<"engine" | "host" | "nobody"> {
  if (!(await stat(path)).isDirectory()) return path.toLowerCase().endsWith(".gguf") ? "engine" : "host";
  const names = new Set(await readdir(path));
  if (!hasWeights(names)) return names.has("onnx") ? "host" : "nobody";
  const isOurs = engine === "readme-moe" || !names.has("onnx") || (await isReadMe(join(path, "config.json")));
  return isOurs ? "engine" : "host";
}

/** Whether a config.json is that of a Read-ME model; one that cannot be read is not. */
async function isReadMe(path: string): Promise<boolean> {
  try {
    const config: unknown = JSON.parse(await readFile(path, "utf8"));
    return typeof config === "object" && config !== null && "readme" in config;
  } catch {
    return false;
  }
}
