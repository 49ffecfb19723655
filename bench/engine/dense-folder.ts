// Writes a dense model for transformers (Python): float32 in one safetensors file, whatever its stored type.

import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { type Model, writeSafetensors } from "@readme-moe/model";
import { tensorRefs } from "./tensor-refs.ts";

// transformers rejects a file that names no framework.
const METADATA = { format: "pt" };
/** Files of the folder. The tokenizer is left out: prompts are token ids. */
const CONFIGS = ["config.json", "generation_config.json"];

/**
 * Writes a model's weights into a folder, beside the configs exported for transformers.js.
 *
 * @param exported - a folder of `exportTransformersJs`
 * @param folder - an existing folder
 */
export async function writeDenseFolder(model: Model, exported: string, folder: string): Promise<void> {
  await Promise.all(CONFIGS.map((name) => copyFile(join(exported, name), join(folder, name))));
  const tensors = tensorRefs(model.weights).map(({ store, name, shape }) => ({
    name,
    type: "F32" as const,
    shape,
    bytes: async () => bytesOf(await store.readFloats(name)),
  }));
  await writeSafetensors(join(folder, "model.safetensors"), tensors, METADATA);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
