// A dense model that is made of the first layers of another one: a small model with the same vocabulary.

import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { SafetensorsFile, writeSafetensors } from "@readme-moe/model";

const TEXT_FILES = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

/**
 * Writes a folder with the first layers of a model in a folder with one file of weights.
 * @param config - fields that replace those of config.json
 */
export async function writeFirstLayers(
  source: string,
  path: string,
  numLayers: number,
  config: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await mkdir(path, { recursive: true });
  for (const name of TEXT_FILES) {
    if (existsSync(join(source, name))) await copyFile(join(source, name), join(path, name));
  }
  const given: Readonly<Record<string, unknown>> = JSON.parse(await readFile(join(source, "config.json"), "utf8"));
  await writeFile(join(path, "config.json"), JSON.stringify({ ...given, num_hidden_layers: numLayers, ...config }));
  const file = await SafetensorsFile.open(join(source, "model.safetensors"));
  const isKept = (name: string): boolean => Number(/\.layers\.(\d+)\./.exec(name)?.[1] ?? -1) < numLayers;
  const tensors = file.names.filter(isKept).map((name) => {
    const { type, shape } = file.info(name);
    return { name, type, shape, bytes: () => file.readBytes(name) };
  });
  await writeSafetensors(join(path, "model.safetensors"), tensors);
  await file.close();
}
