// A dense model as transformers (Python) loads it: float32 in one safetensors file, whatever it was stored as.

import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { type Model, writeSafetensors } from "@readme-moe/model";
import { tensorRefs } from "./tensor-refs.ts";

// A file that names no framework is refused there.
const METADATA = { format: "pt" };
/** Without the tokenizer: prompts are token ids. */
const CONFIGS = ["config.json", "generation_config.json"];

/**
 * Writes a model's weights into a folder, beside configs that were exported for transformers.js.
 * @param exported - a folder of `exportTransformersJs`
 * @param folder - exists
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
