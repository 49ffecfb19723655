// What a model has besides weights: config, tokenizer and chat template, and its licence.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { exportedConfig, exportedGenerationConfig } from "../export/export-config.ts";
import { exportedText, toJson } from "../export/export-text.ts";
import { type JsonObject, readJsonFile, readTextFile } from "../files/text-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { CONFIG_FILE, type Model, TEXT_FILES } from "./model.ts";

const MAX_BYTES = 256 << 20;
const MAX_CARD_BYTES = 16 << 20;

/** The files of a model folder besides weights. */
export interface BaseFiles {
  /** config.json */
  readonly config: JsonObject;
  /** The other files, by name. */
  readonly texts: Readonly<Record<string, string>>;
}

/**
 * Reads a dense model's files besides its weights: a folder's own files, or those that a Hugging Face folder would have
 * instead of the GGUF file. config.json does not say that weights are quantised, since those that are written are not.
 * @throws {ReadMeError} as `model.loadText`
 */
export async function baseFiles(model: Model): Promise<BaseFiles> {
  if (!(await stat(model.path)).isDirectory()) return filesOfGguf(model);
  const { quantization_config: _, ...config } = (await readJsonFile(join(model.path, CONFIG_FILE), MAX_BYTES)) ?? {};
  const texts: Record<string, string> = {};
  for (const name of TEXT_FILES) {
    const text = await readTextFile(join(model.path, name), MAX_BYTES);
    if (text !== undefined) texts[name] = text;
  }
  return { config, texts };
}

async function filesOfGguf(model: Model): Promise<BaseFiles> {
  return {
    config: exportedConfig(model.config, undefined, { dtypes: ["fp32"], withDataFile: [] }),
    texts: {
      "generation_config.json": toJson(exportedGenerationConfig(model.config, undefined)),
      ...Object.fromEntries(await exportedText(model)),
    },
  };
}

/**
 * Reads a model's licence, as it is spelled in a GGUF file's metadata or at the head of a folder's model card.
 * @returns `undefined` when there is none
 */
export async function modelLicense({ path, weights }: Pick<Model, "path" | "weights">): Promise<string | undefined> {
  const { store } = weights.embedding;
  if (store instanceof GgufTensorStore) {
    const license = store.file.metadata.get("general.license");
    return typeof license === "string" && license !== "" ? license : undefined;
  }
  if (!(await stat(path)).isDirectory()) return undefined;
  const card = await readTextFile(join(path, "README.md"), MAX_CARD_BYTES);
  const [, head] = /^---\r?\n(.*?)\r?\n---/s.exec(card ?? "") ?? [];
  const [, value] = /^license:[ \t]*["']?([\w.+-]+)["']?[ \t]*$/m.exec(head ?? "") ?? [];
  return value;
}
