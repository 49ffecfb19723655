// Generation in Ollama's API: its chats and completions become requests of the other APIs.

import { randomUUID } from "node:crypto";
import { chatApi } from "../api/chat.ts";
import type { ChatChoice } from "../api/chat-shape.ts";
import { checkBody } from "../api/check-body.ts";
import { completionApi, type CompletionChoice } from "../api/completions.ts";
import { sendRead } from "../api/reads.ts";
import type { ChatBody, CompletionBody } from "../api/request-schemas.ts";
import { serveGeneration, type GenerationEndpoint, type RequestParts } from "../api/serve-generation.ts";
import { renameParams } from "../http/errors.ts";
import { SAMPLING_FALLBACKS } from "./defaults.ts";
import { asMessage, asResponse, OllamaFormat } from "./format.ts";
import { infoOf, servedName } from "./named-model.ts";
import { ollamaChatBody, ollamaGenerateBody } from "./request-schemas.ts";
import { chatOf, chatOfPrompt, completionOf } from "./to-chat.ts";

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
  open(sent, parts) {
    const body = checkBody(ollamaChatBody, sent);
    return opened(body.model, { ...chatOf(body), model: servedName(body.model, parts) }, asMessage);
  },
};

const generateChatEndpoint: GenerationEndpoint<ChatBody, ChatChoice> = {
  endpoint: "/api/generate",
  api: chatApi,
  open(sent, parts) {
    const body = checkBody(ollamaGenerateBody, sent);
    return opened(body.model, { ...chatOfPrompt(body), model: servedName(body.model, parts) }, asResponse);
  },
};

const generateTextEndpoint: GenerationEndpoint<CompletionBody, CompletionChoice> = {
  endpoint: "/api/generate",
  api: completionApi,
  open(sent, parts) {
    const body = checkBody(ollamaGenerateBody, sent);
    return opened(body.model, { ...completionOf(body), model: servedName(body.model, parts) }, asResponse);
  },
};

function opened<Body>(model: string, body: Body, write: typeof asMessage) {
  return {
    id: `ollama-${randomUUID()}`,
    body,
    fallbacks: SAMPLING_FALLBACKS,
    format: () => new OllamaFormat(model, write, now),
    translate: (error: unknown) => renameParams(error, PARAMS),
  };
}

/** Answers `POST /api/chat`. Without messages it says that the model is there, as clients ask before a chat. */
export async function ollamaChat(parts: RequestParts): Promise<void> {
  const body = checkBody(ollamaChatBody, parts.request.body);
  if (body.messages && body.messages.length > 0) return serveGeneration(chatEndpoint, parts);
  return answerLoaded(parts, body.model, asMessage({ content: "" }));
}

/** Answers `POST /api/generate`. A prompt becomes a chat, unless the request or the model leaves the template out. */
export async function ollamaGenerate(parts: RequestParts): Promise<void> {
  const body = checkBody(ollamaGenerateBody, parts.request.body);
  if (!body.prompt) return answerLoaded(parts, body.model, asResponse({ content: "" }));
  const isText = body.raw || !(await infoOf(body.model, parts)).hasChatTemplate;
  return isText ? serveGeneration(generateTextEndpoint, parts) : serveGeneration(generateChatEndpoint, parts);
}

async function answerLoaded(parts: RequestParts, model: string, texts: object): Promise<void> {
  await infoOf(model, parts);
  await sendRead(parts, () => ({ model, created_at: now().toISOString(), ...texts, done: true, done_reason: "load" }));
}
