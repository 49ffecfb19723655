import { join } from "node:path";
import { describeValue, isRecord, REASONING_FORMS, toolCallMarks } from "@readme-moe/core";
import type { ModelConfig } from "../config/model-config.ts";
import { corrupt, notFound, unsupported } from "../files/errors.ts";
import { isList, type JsonObject, readJsonFile, readTextFile } from "../files/read-file.ts";
import type { GgufMetadata } from "../gguf/header.ts";
import { ChatTemplate, type ChatTemplateOptions, type ChatTemplateSources } from "./chat-template.ts";
import { ggufTokenizer } from "./gguf-tokenizer.ts";
import { Tokenizer } from "./tokenizer.ts";

// The largest tokenizer.json in use (vocabularies of 2 ** 18 tokens) have some 30 MB.
const MAX_TOKENIZER_BYTES = 256 * 2 ** 20;
const MAX_TOKENIZER_CONFIG_BYTES = 16 * 2 ** 20;
const MAX_TEMPLATE_BYTES = 2 ** 20;

/** A model's tokenizer and chat template. */
export interface ModelText {
  readonly tokenizer: Tokenizer;
  /** `undefined` for a model that was not made for chat. */
  readonly chatTemplate: ChatTemplate | undefined;
}

/** Loads tokenizer and chat template of a Hugging Face folder. @throws {ReadMeError} naming the file */
export async function loadFolderText(folder: string): Promise<ModelText> {
  const tokenizer = await loadTokenizer(folder);
  return showingMarks({ tokenizer, chatTemplate: await loadChatTemplate(folder, tokenizer) });
}

/** Loads tokenizer and chat template from a GGUF file's metadata. @throws {ReadMeError} naming the key */
export function loadGgufText(path: string, metadata: GgufMetadata): ModelText {
  const tokenizer = ggufTokenizer(metadata, path);
  return showingMarks({ tokenizer, chatTemplate: ggufChatTemplate(metadata, path, tokenizer) });
}

/** Makes the marks of reasoning and of tool calls a part of answers, also where they are control tokens. */
function showingMarks(text: ModelText): ModelText {
  const { tokenizer, chatTemplate } = text;
  const [calls, reasoning] = [chatTemplate?.toolCallForm, chatTemplate?.reasoningForm(tokenizer)];
  if (calls !== undefined) tokenizer.show(toolCallMarks(calls));
  if (reasoning !== undefined) tokenizer.show(REASONING_FORMS[reasoning].marks);
  return text;
}

/**
 * Loads the tokenizer of a Hugging Face folder: `tokenizer.json`, and where present `tokenizer_config.json` and
 * `special_tokens_map.json`, which name the tokens that have a role.
 * @throws {ReadMeError} `ERR_FILE_NOT_FOUND`, `ERR_FILE_UNREADABLE`, `ERR_FILE_CORRUPT` naming the file;
 *   `ERR_MODEL_UNSUPPORTED` naming what this project does not have
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, "tokenizer.json");
  const configPath = join(folder, "tokenizer_config.json");
  const tokenizer = await readJsonFile(path, MAX_TOKENIZER_BYTES);
  if (tokenizer === undefined) {
    throw notFound(path, "no such file; a model folder needs the tokenizer.json of its Hugging Face repository");
  }
  return new Tokenizer({ path, tokenizer, config: await readTokenizerConfig(folder), configPath });
}

/** Reads tokenizer_config.json. special_tokens_map.json fills roles that it does not have, or that are `null`. */
export async function readTokenizerConfig(folder: string): Promise<JsonObject> {
  const config = (await readJsonFile(join(folder, "tokenizer_config.json"), MAX_TOKENIZER_CONFIG_BYTES)) ?? {};
  const map = await readJsonFile(join(folder, "special_tokens_map.json"), MAX_TOKENIZER_CONFIG_BYTES);
  return { ...map, ...Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null)) };
}

/**
 * Loads the chat template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`;
 * `undefined` when there is none. The template is first parsed by `render`.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT`, `ERR_FILE_UNREADABLE`
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
 * Loads the chat template in a GGUF file's metadata; `undefined` when there is none.
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

/** Reads `chat_template`: one template, or a list of named ones. */
function readSources(path: string, value: unknown): ChatTemplateSources | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string") return { default: value };
  const named = new Map<string, string>();
  for (const entry of isList(value) ? value : [value]) {
    const { name, template } = isRecord(entry) ? entry : {};
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

// The text around what embeddings and scores are computed of.

/** Instruction of Qwen's embeddings and rerankers where none is given. */
const INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query";

/** Text that Qwen3-Reranker was trained on. Its chat template is that of Qwen3, and knows nothing of documents. */
const QWEN3_RERANKER = `
{%- set given = messages | selectattr("role", "equalto", "system") | list -%}
{%- set query = messages | selectattr("role", "equalto", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "equalto", "document") | map(attribute="content") | first -%}
{{ "<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. " }}
{{- 'Note that the answer can only be "yes" or "no".<|im_end|>\\n<|im_start|>user\\n<Instruct>: ' }}
{{- given[0].content if given | length > 0 else "${INSTRUCTION}" }}
{{- "\\n<Query>: " + query + "\\n<Document>: " + document }}
{{- "<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n" }}`;

/**
 * Chooses the template of a model that gives scores: its own if it has the roles `query` and `document`, else
 * Qwen3-Reranker's. Models that give embeddings have no template: their inputs are texts.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for scores of a family whose text is not known
 */
export function poolingText(path: string, { pooling, modelType, encoder }: ModelConfig, text: ModelText): ModelText {
  if (pooling === undefined) return text;
  const { tokenizer, chatTemplate } = text;
  // Encoders read pairs of texts as such.
  if (pooling.kind === "embedding" || encoder) return { tokenizer, chatTemplate: undefined };
  if (chatTemplate?.knowsPairs) return text;
  if (modelType === "qwen3") return { tokenizer, chatTemplate: new ChatTemplate(QWEN3_RERANKER, tokenizer) };
  throw unsupported(path, "gives scores, but its chat template has no messages of the roles `query` and `document`");
}
