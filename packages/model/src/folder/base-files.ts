import { stat } from "node:fs/promises";
import { join } from "node:path";
import { exportedConfig, exportedGenerationConfig } from "../export/export-config.ts";
import { exportedText, toJson } from "../export/export-text.ts";
import { type JsonObject, readJsonFile, readTextFile } from "../files/text-file.ts";
import { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import type { Model } from "./model.ts";

const MAX_BYTES = 256 << 20;
const COPIED = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
] as const;

/** What a model folder has besides weights. */
export interface BaseFiles {
  /** config.json */
  readonly config: JsonObject;
  /** The rest, by name. */
  readonly texts: Readonly<Record<string, string>>;
}

/**
 * A dense model's files besides its weights: a folder's own, as they are; of a GGUF file, what Hugging Face folders have.
 * @throws {ReadMeError} as `model.loadText`
 */
export async function baseFiles(model: Model): Promise<BaseFiles> {
  if (!(await stat(model.path)).isDirectory()) return filesOfGguf(model);
  const config = (await readJsonFile(join(model.path, "config.json"), MAX_BYTES)) ?? {};
  const texts: Record<string, string> = {};
  for (const name of COPIED) {
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

const MAX_CARD_BYTES = 16 << 20;

/**
 * The licence that a model says it has: of a GGUF file in its metadata, of a folder at the head of its model card; as it is spelled there.
 * @returns `undefined` where it says none
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
