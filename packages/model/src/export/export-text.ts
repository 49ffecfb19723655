// Tokenizer files of an exported folder, in spellings that old and new versions of transformers.js read.

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { isJsonObject, type JsonObject, readJsonFile, readTextFile } from "../files/text-file.ts";
import type { Model } from "../folder/model.ts";
import { GgufFile } from "../gguf/gguf-file.ts";
import type { GgufMetadata } from "../gguf/metadata.ts";
import { ggufTokenizerSource } from "../text/gguf-tokenizer.ts";

const MAX_BYTES = 256 << 20;
const ROLES = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"] as const;

/** Contents of a model's tokenizer files, or of the metadata that a GGUF file has instead. */
interface TextSource {
  readonly tokenizer: JsonObject;
  readonly config: JsonObject;
  /** A template, or a list of `{ name, template }`; `undefined` for a model that was not made for chat. */
  readonly chatTemplate: unknown;
}

/**
 * Makes the tokenizer files of an exported folder, by name.
 *
 * @throws {ReadMeError} as `model.loadText`: a tokenizer that we cannot read is not exported
 */
export async function exportedText(model: Model): Promise<ReadonlyMap<string, string>> {
  await model.loadText();
  const isFolder = (await stat(model.path)).isDirectory();
  const { tokenizer, config, chatTemplate } = isFolder
    ? await folderText(model.path)
    : ggufText(await ggufMetadata(model.path), model.path, model.config.contextTokens);
  const files = new Map([
    ["tokenizer.json", toJson(withPlainMerges(tokenizer))],
    // Only newer versions read chat_template.jinja; only older ones need plain strings in the config.
    ["tokenizer_config.json", toJson({ ...withPlainRoles(config), chat_template: chatTemplate })],
  ]);
  const source = defaultTemplate(chatTemplate);
  if (source !== undefined) files.set("chat_template.jinja", source);
  return files;
}

/** Encodes a value as indented JSON with a line end. */
export function toJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

async function folderText(folder: string): Promise<TextSource> {
  const read = async (name: string): Promise<JsonObject> => (await readJsonFile(join(folder, name), MAX_BYTES)) ?? {};
  const config = await read("tokenizer_config.json");
  const chatTemplate = await readTextFile(join(folder, "chat_template.jinja"), MAX_BYTES);
  return {
    tokenizer: await read("tokenizer.json"),
    // special_tokens_map.json has the roles that the config does not have.
    config: { ...(await read("special_tokens_map.json")), ...withoutNulls(config) },
    chatTemplate: chatTemplate ?? config["chat_template"],
  };
}

async function ggufMetadata(path: string): Promise<GgufMetadata> {
  const file = await GgufFile.open(path);
  await file.close();
  return file.metadata;
}

function ggufText(metadata: GgufMetadata, path: string, contextTokens: number): TextSource {
  const { tokenizer, config } = ggufTokenizerSource(metadata, path);
  const [source, toolUse] = ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"].map((key) =>
    metadata.get(key),
  );
  const named = [
    { name: "default", template: source },
    { name: "tool_use", template: toolUse },
  ];
  return {
    tokenizer: { version: "1.0", truncation: null, padding: null, ...tokenizer },
    config: {
      ...config,
      tokenizer_class: "PreTrainedTokenizerFast",
      clean_up_tokenization_spaces: false,
      model_max_length: contextTokens,
      add_bos_token: beginsWithToken(tokenizer["post_processor"]),
    },
    chatTemplate: source === undefined || toolUse === undefined ? source : named,
  };
}

function beginsWithToken(postProcessor: unknown): boolean {
  const single = isJsonObject(postProcessor) ? postProcessor["single"] : undefined;
  const first: unknown = Array.isArray(single) ? single[0] : undefined;
  return isJsonObject(first) && "SpecialToken" in first;
}

function defaultTemplate(chatTemplate: unknown): string | undefined {
  if (typeof chatTemplate === "string") return chatTemplate;
  const named: readonly unknown[] = Array.isArray(chatTemplate) ? chatTemplate : [];
  const found = named.filter(isJsonObject).find((entry) => entry["name"] === "default");
  return typeof found?.["template"] === "string" ? found["template"] : undefined;
}

/** Spells merges as `"a b"`, which old and new versions read, unless a token contains a space. */
function withPlainMerges(tokenizer: JsonObject): JsonObject {
  const model = tokenizer["model"];
  const merges: readonly unknown[] = isJsonObject(model) && Array.isArray(model["merges"]) ? model["merges"] : [];
  if (!merges.every((merge) => Array.isArray(merge) && merge.every(hasNoSpace))) return tokenizer;
  return { ...tokenizer, model: { ...(model as JsonObject), merges: merges.map((m) => (m as string[]).join(" ")) } };
}

function hasNoSpace(part: unknown): boolean {
  return typeof part === "string" && !part.includes(" ");
}

/** Spells tokens with a role as texts: older versions do not read objects. */
function withPlainRoles(config: JsonObject): JsonObject {
  const roles = ROLES.flatMap((role) => {
    const value = config[role];
    return isJsonObject(value) ? [[role, value["content"]]] : [];
  });
  return { ...config, ...(Object.fromEntries(roles) as JsonObject) };
}

function withoutNulls(object: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));
}
