import { stat } from "node:fs/promises";
import { join } from "node:path";
import { exportedConfig, exportedGenerationConfig } from "../export/export-config.ts";
import { exportedText, toJson } from "../export/export-text.ts";
import type { JsonObject } from "../files/json-object.ts";
import { readJsonFile, readTextFile } from "../files/text-file.ts";
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
