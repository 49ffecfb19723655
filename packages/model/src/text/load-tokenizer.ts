import { join } from "node:path";
import { ReadMeError } from "@readme-moe/core";
import { readJsonFile } from "../files/text-file.ts";
import { Tokenizer } from "./tokenizer.ts";

// The largest tokenizer.json in use (vocabularies of 2 ** 18 tokens) have some 30 MB.
const MAX_TOKENIZER_BYTES = 256 * 2 ** 20;
export const MAX_TOKENIZER_CONFIG_BYTES: number = 16 * 2 ** 20;

/**
 * The tokenizer of a model folder in Hugging Face layout: `tokenizer.json`, and where present
 * `tokenizer_config.json` and `special_tokens_map.json`, which name the tokens that have a role.
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND`, `ERR_FILE_UNREADABLE`, `ERR_FILE_CORRUPT` naming the file;
 *   `ERR_MODEL_UNSUPPORTED` naming what this project does not have
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, "tokenizer.json");
  const configPath = join(folder, "tokenizer_config.json");
  const tokenizer = await readJsonFile(path, MAX_TOKENIZER_BYTES);
  if (tokenizer === undefined) {
    const message = `${path}: no such file; a model folder needs the tokenizer.json of its Hugging Face repository`;
    throw new ReadMeError("ERR_FILE_NOT_FOUND", message);
  }
  const config = await readJsonFile(configPath, MAX_TOKENIZER_CONFIG_BYTES);
  const map = await readJsonFile(join(folder, "special_tokens_map.json"), MAX_TOKENIZER_CONFIG_BYTES);
  return new Tokenizer({ path, tokenizer, config: { ...map, ...withoutNulls(config) }, configPath });
}

/** A role that the config leaves `null` is one that special_tokens_map.json may still fill. */
function withoutNulls(config: Readonly<Record<string, unknown>> = {}): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null));
}
