// Routes of Ollama's API: its chats, completions and embeddings become requests of the other APIs.

import { randomUUID } from "node:crypto";
import { chatApi } from "../api/chat.ts";
import type { ChatChoice } from "../api/chat-shape.ts";
import { checkBody } from "../api/check-body.ts";
import { completionApi, type CompletionChoice } from "../api/completions.ts";
import { serveEmbeddings } from "../api/pooling.ts";
import type { Serving } from "../api/exchange.ts";
import type { ChatBody, CompletionBody } from "../api/request-schemas.ts";
import { serveGeneration, type GenerationEndpoint, type RequestParts } from "../api/serve-generation.ts";
import type { ServedModel } from "../edge/served-models.ts";
import { unknownModel } from "../edge/refusals.ts";
import type { Incoming, Reply } from "../http/border.ts";
import { renameParams } from "../http/errors.ts";
import { asMessage, asResponse, OllamaFormat } from "./format.ts";
import { ollamaChatBody, ollamaEmbedBody, ollamaGenerateBody, ollamaShowBody } from "./request-schemas.ts";
import { chatOf, chatOfPrompt, completionOf } from "./to-chat.ts";

/** Version of Ollama's API that these routes follow; clients refuse older ones. */
const VERSION = "0.12.6";

/** Parameters of the other APIs under the names of this one. */
const PARAMS: Readonly<Record<string, string>> = {
  max_completion_tokens: "options.num_predict",
  max_tokens: "options.num_predict",
  "response_format.json_schema.schema": "format",
  response_format: "format",
  structured_outputs: "format",
  repetition_penalty: "options.repeat_penalty",
  temperature: "options.temperature",
  top_p: "options.top_p",
  top_k: "options.top_k",
  min_p: "options.min_p",
  seed: "options.seed",
  stop: "options.stop",
};

const now = (): Date => new Date();

const chatEndpoint: GenerationEndpoint<ChatBody, ChatChoice> = {
  endpoint: "/api/chat",
  api: chatApi,
  open(sent, { serving }) {
    const body = checkBody(ollamaChatBody, sent);
    return opened(body.model, { ...chatOf(body), model: nameOf(serving, body.model) }, asMessage);
  },
};

const generateChatEndpoint: GenerationEndpoint<ChatBody, ChatChoice> = {
  endpoint: "/api/generate",
  api: chatApi,
  open(sent, { serving }) {
    const body = checkBody(ollamaGenerateBody, sent);
    return opened(body.model, { ...chatOfPrompt(body), model: nameOf(serving, body.model) }, asResponse);
  },
};

const generateTextEndpoint: GenerationEndpoint<CompletionBody, CompletionChoice> = {
  endpoint: "/api/generate",
  api: completionApi,
  open(sent, { serving }) {
    const body = checkBody(ollamaGenerateBody, sent);
    return opened(body.model, { ...completionOf(body), model: nameOf(serving, body.model) }, asResponse);
  },
};

function opened<Body>(model: string, body: Body, write: typeof asMessage) {
  return {
    id: `ollama-${randomUUID()}`,
    body,
    format: () => new OllamaFormat(model, write, now),
    translate: (error: unknown) => renameParams(error, PARAMS),
  };
}

/** Answers `POST /api/chat`. Without messages it says that the model is there, as clients ask before a chat. */
export async function ollamaChat(parts: RequestParts): Promise<void> {
  const body = checkBody(ollamaChatBody, parts.request.body);
  if (body.messages && body.messages.length > 0) return serveGeneration(chatEndpoint, parts);
  loaded(parts, body.model, asMessage({ content: "" }));
}

/** Answers `POST /api/generate`. A prompt becomes a chat, unless the request or the model leaves the template out. */
export async function ollamaGenerate(parts: RequestParts): Promise<void> {
  const body = checkBody(ollamaGenerateBody, parts.request.body);
  const { serving } = parts;
  if (!body.prompt) return loaded(parts, body.model, asResponse({ content: "" }));
  const { engine } = findModel(serving, body.model);
  if (body.raw || !engine.info.hasChatTemplate) return serveGeneration(generateTextEndpoint, parts);
  return serveGeneration(generateChatEndpoint, parts);
}

function loaded({ serving, response }: RequestParts, model: string, texts: object): void {
  findModel(serving, model);
  response.json({ model, created_at: now().toISOString(), ...texts, done: true, done_reason: "load" });
}

/** Answers `POST /api/embed`. */
export async function ollamaEmbed(parts: RequestParts): Promise<void> {
  const { model, input, dimensions } = checkBody(ollamaEmbedBody, parts.request.body);
  const startMs = performance.now();
  const body = { model: nameOf(parts.serving, model), input, dimensions };
  await serveEmbeddings(parts, body, (results, usage) => ({
    model,
    embeddings: results.map((values) => Array.from(values)),
    total_duration: Math.round((performance.now() - startMs) * 1e6),
    load_duration: 0,
    prompt_eval_count: usage.prompt_tokens,
  }));
}

/** Answers `GET /api/tags` and `/api/ps`. */
export function ollamaModels(serving: Serving, response: Reply): void {
  const models = serving.models.list().map((served) => ({
    name: served.name,
    model: served.name,
    modified_at: new Date(served.createdMs).toISOString(),
    size: 0,
    digest: "",
    details: detailsOf(served),
  }));
  response.json({ models });
}

/** Answers `POST /api/show`. */
export function ollamaShow(serving: Serving, request: Incoming, response: Reply): void {
  const { model } = checkBody(ollamaShowBody, request.body);
  const served = findModel(serving, model);
  const { info } = served.engine;
  const generates = info.task === "generate";
  response.json({
    modelfile: "",
    parameters: "",
    template: "",
    modified_at: new Date(served.createdMs).toISOString(),
    details: detailsOf(served),
    model_info: {
      "general.architecture": info.modelType,
      [`${info.modelType}.context_length`]: info.contextTokens,
      ...(info.embedding ? { [`${info.modelType}.embedding_length`]: info.embedding.dimensions } : {}),
    },
    capabilities: [
      ...(generates ? ["completion"] : []),
      ...(generates && info.hasChatTemplate ? ["tools"] : []),
      ...(generates && info.reasons ? ["thinking"] : []),
      ...(info.task === "embed" ? ["embedding"] : []),
    ],
  });
}

export function ollamaVersion(response: Reply): void {
  response.json({ version: VERSION });
}

function detailsOf({ engine: { info } }: ServedModel): object {
  const family = info.modelType;
  return {
    parent_model: "",
    format: "",
    family,
    families: [family],
    parameter_size: "",
    quantization_level: info.precision,
  };
}

/** Finds the served name of a model: clients add the tag `latest` to names without one. */
function nameOf({ models }: Serving, model: string): string {
  const names = new Set(models.list().flatMap(({ name, aliases }) => [name, ...aliases]));
  const plain = model.replace(/:latest$/, "");
  return !names.has(model) && names.has(plain) ? plain : model;
}

/** @throws {ApiError} 404, naming the served models */
function findModel(serving: Serving, model: string): ServedModel {
  const name = nameOf(serving, model);
  const served = serving.models.list();
  const found = served.find((one) => one.name === name || one.aliases.includes(name));
  if (found) return found;
  throw unknownModel(
    model,
    served.map((one) => one.name),
  );
}
