import { join } from "node:path";
import { describeValue } from "@readme-moe/core";
import type { GgufMetadata } from "../gguf/metadata.ts";
import { ChatTemplate, type ChatTemplateOptions, type ChatTemplateSources } from "./chat-template.ts";
import { corrupt, isJsonObject } from "../files/json-object.ts";
import { MAX_TOKENIZER_CONFIG_BYTES } from "./load-tokenizer.ts";
import { readJsonFile, readTextFile } from "../files/text-file.ts";
import type { Tokenizer } from "./tokenizer.ts";

const MAX_TEMPLATE_BYTES = 2 ** 20;

/**
 * The chat template of a model folder: `chat_template.jinja`, else `chat_template` of
 * `tokenizer_config.json`; `undefined` when there is none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, `ERR_FILE_UNREADABLE`; what a template says is first read by `render`
 */
export async function loadChatTemplate(
  folder: string,
  tokenizer: Tokenizer,
  options: ChatTemplateOptions = {},
): Promise<ChatTemplate | undefined> {
  const source = await readTextFile(join(folder, "chat_template.jinja"), MAX_TEMPLATE_BYTES);
  if (source !== undefined) return new ChatTemplate(source, tokenizer, options);
  const path = join(folder, "tokenizer_config.json");
  const config = await readJsonFile(path, MAX_TOKENIZER_CONFIG_BYTES);
  const sources = readSources(path, config?.["chat_template"]);
  return sources === undefined ? undefined : new ChatTemplate(sources, tokenizer, options);
}

/**
 * The chat template in a GGUF file's metadata; `undefined` when there is none.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` naming the key
 */
export function ggufChatTemplate(
  metadata: GgufMetadata,
  path: string,
  tokenizer: Tokenizer,
  options: ChatTemplateOptions = {},
): ChatTemplate | undefined {
  const [source, toolUse] = ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"].map((key) => {
    const value = metadata.get(key);
    if (value === undefined || typeof value === "string") return value;
    throw corrupt(path, `expected metadata \`${key}\` to be a string, got ${describeValue(value)}`);
  });
  return source === undefined ? undefined : new ChatTemplate({ default: source, toolUse }, tokenizer, options);
}

/** One template, or a list of named ones. */
function readSources(path: string, value: unknown): ChatTemplateSources | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string") return { default: value };
  const named = new Map<string, string>();
  for (const entry of Array.isArray(value) ? (value as unknown[]) : [value]) {
    const { name, template } = isJsonObject(entry) ? entry : {};
    if (typeof name !== "string" || typeof template !== "string") {
      throw corrupt(path, "expected `chat_template` to be a string, or a list of { name, template }");
    }
    named.set(name, template);
  }
  const source = named.get("default");
  if (source !== undefined) return { default: source, toolUse: named.get("tool_use") };
  const names = [...named.keys()].map((name) => JSON.stringify(name)).join(", ");
  throw corrupt(path, `\`chat_template\` has no template named "default", only ${names || "an empty list"}`);
}
