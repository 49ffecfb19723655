// The dense model that a test file's sets of loras belong to, and adapters of it.

import { join } from "node:path";
import { addLora, openModel } from "@readme-moe/model";
import { fixture } from "./fixtures.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { writeTinyAdapter } from "./tiny-adapter.ts";

/** Names of an adapter's files, sorted. */
export const ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"];

/** Open until the process ends: other files of tests share it. */
export const base = await openModel(fixture("families/llama-tied"));

/** Writes a new adapter of one module, in a folder named `legal`. */
export async function newAdapter(seed = 1): Promise<string> {
  const folder = join(await temporaryFolder(), "legal");
  return writeTinyAdapter(folder, base.config, { modules: ["mlp.up_proj"], seed });
}

/** Adds an adapter, or a new one, to a set. */
export async function add(folder: string, name: string, path?: string, dropRouter = false): Promise<void> {
  await addLora(folder, { name, path: path ?? (await newAdapter()), model: base }, { dropRouter });
}
