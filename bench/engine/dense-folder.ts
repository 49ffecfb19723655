// Writes a dense model for transformers (Python): float32 in one safetensors file, whatever its stored type.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { baseFiles, type Model, toJson, writeSafetensors } from "@readme-moe/model";
import { tensorRefs } from "./tensor-refs.ts";

// transformers rejects a file that names no framework.
const METADATA = { format: "pt" };
const GENERATION_CONFIG = "generation_config.json";

/**
 * Writes a model's weights and configs. The tokenizer is left out: prompts are token ids.
 *
 * @param folder - an existing folder
 */
export async function writeDenseFolder(model: Model, folder: string): Promise<void> {
  const { config, texts } = await baseFiles(model);
  await writeFile(join(folder, "config.json"), toJson(config));
  const { [GENERATION_CONFIG]: generation } = texts;
  if (generation !== undefined) await writeFile(join(folder, GENERATION_CONFIG), generation);
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
