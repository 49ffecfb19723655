// Routes of Ollama's API: its chats, completions and embeddings become requests of the other APIs. Names of its models
// end with a tag.

import { createHash, randomUUID } from "node:crypto";
import { type EngineInfo, type SamplingDefaults, type SamplingParams, wireName } from "@readme-moe/core";
import { chatApi, type ChatChoice } from "../api/chat.ts";
import { completionApi, type CompletionChoice } from "../api/completions.ts";
import { sendRead, type VisibleName, visibleNames } from "../api/other-routes.ts";
import type { ChatBody, CompletionBody } from "../api/request-schemas.ts";
import { generating } from "../api/serve-generation.ts";
import { invalid, renameParams } from "../http/errors.ts";
import { listed, serveEmbeddings } from "../api/pooling.ts";
import { type EngineRouteFacts, type RequestParts, RequestScope } from "../api/request-scope.ts";
import { clientSignal } from "../http/request.ts";
import { asMessage, asResponse, chatOf, chatOfPrompt, completionOf, OllamaFormat } from "./translate.ts";
import {
  OLLAMA_PARAMETERS,
  type OllamaChatBody,
  type OllamaEmbedBody,
  type OllamaEmbedOneBody,
  type OllamaGenerateBody,
  type OllamaShowBody,
} from "./schemas.ts";

type EngineParts = RequestParts<EngineRouteFacts>;

/** Parameters of the other APIs under the names of this one. */
const PARAMS: Readonly<Record<string, string>> = {
  max_completion_tokens: "options.num_predict",
  max_tokens: "options.num_predict",
  "response_format.json_schema.schema": "format",
  response_format: "format",
  structured_outputs: "format",
  ...Object.fromEntries(OLLAMA_PARAMETERS.map(([name, { ollama }]) => [wireName(name), `options.${ollama.name}`])),
};

const now = (): Date => new Date();

const generateChat = generating<OllamaChatBody, ChatBody, ChatChoice>((body, parts) => ({
  ...chatApi,
  ...translated(body.model, asMessage),
  body: { ...chatOf(body), model: servedName(body.model, parts) },
}));

const generateChatOfPrompt = generating<OllamaGenerateBody, ChatBody, ChatChoice>((body, parts) => ({
  ...chatApi,
  ...translated(body.model, asResponse),
  body: { ...chatOfPrompt(body), model: servedName(body.model, parts) },
}));

const generateText = generating<OllamaGenerateBody, CompletionBody, CompletionChoice>((body, parts) => ({
  ...completionApi,
  ...translated(body.model, asResponse),
  body: { ...completionOf(body), model: servedName(body.model, parts) },
}));

function translated(model: string, write: typeof asMessage) {
  return {
    id: `ollama-${randomUUID()}`,
    fallbacks: SAMPLING_FALLBACKS,
    format: () => new OllamaFormat(model, write, now),
    translate: (error: unknown) => renameParams(error, PARAMS),
  };
}

/** Answers `POST /api/chat`. Without messages it says that the model is there, as clients ask before a chat. */
export async function ollamaChat(parts: EngineParts, body: OllamaChatBody): Promise<void> {
  if (body.messages && body.messages.length > 0) return generateChat(parts, body);
  return answerLoaded(parts, body.model, asMessage({ content: "" }));
}

/**
 * Answers `POST /api/generate`. A prompt becomes a chat, unless the request or the model leaves the template out, or
 * there is a suffix.
 */
export async function ollamaGenerate(parts: EngineParts, body: OllamaGenerateBody): Promise<void> {
  if (!body.prompt && !body.suffix) return answerLoaded(parts, body.model, asResponse({ content: "" }));
  const isText = body.suffix || body.raw || !(await infoOf(body.model, parts)).hasChatTemplate;
  return isText ? generateText(parts, body) : generateChatOfPrompt(parts, body);
}

async function answerLoaded(parts: RequestParts, model: string, texts: object): Promise<void> {
  await infoOf(model, parts);
  await sendRead(parts, () => ({ model, created_at: now().toISOString(), ...texts, done: true, done_reason: "load" }));
}

/** Answers `POST /api/embed`. */
export async function ollamaEmbed(
  parts: EngineParts,
  { model, input, dimensions, truncate }: OllamaEmbedBody,
): Promise<void> {
  const startMs = performance.now();
  const body = { model: servedName(model, parts), input, dimensions };
  await serveEmbeddings(parts, body, {
    shortens: truncate ?? true,
    answer: async (results, usage) => ({
      model,
      embeddings: await listed(results, (values) => Array.from(values)),
      total_duration: Math.round((performance.now() - startMs) * 1e6),
      load_duration: 0,
      prompt_eval_count: usage.prompt_tokens,
    }),
  });
}

/** Answers `POST /api/embeddings`, the older route for one text. */
export async function ollamaEmbedOne(parts: EngineParts, { model, prompt }: OllamaEmbedOneBody): Promise<void> {
  const body = { model: servedName(model, parts), input: prompt };
  await serveEmbeddings(parts, body, {
    shortens: true,
    answer: ([values = new Float32Array()]) => ({ embedding: Array.from(values) }),
  });
}

/** Version of Ollama's API that these routes follow; clients refuse older ones. */
const VERSION = "0.12.6";

/** Models stay loaded: Ollama writes a time as far away as this where `keep_alive` is negative. */
const NEVER = "2318-01-01T00:00:00Z";

/** Width of the names in `parameters`, as Ollama writes them. */
const NAME_WIDTH = 30;

/** Answers `GET /api/tags`. */
export function ollamaModels(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ models: visibleNames(parts.serving, parts.response).map(modelOf) }));
}

/** Answers `GET /api/ps`. */
export function ollamaRunning(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({
    models: visibleNames(parts.serving, parts.response).map((named) => ({
      ...modelOf(named),
      expires_at: NEVER,
      size_vram: 0,
      context_length: named.served.engine.info.contextTokens,
    })),
  }));
}

function modelOf({ id, served: { createdMs, engine } }: VisibleName): object {
  const { info } = engine;
  const name = taggedName(id);
  return {
    name,
    model: name,
    modified_at: new Date(createdMs).toISOString(),
    size: info.weightBytes ?? 0,
    digest: info.modelVersion ?? createHash("sha256").update(info.path).digest("hex"),
    details: detailsOf(info),
  };
}

/** Answers `POST /api/show`. */
export async function ollamaShow(parts: RequestParts, body: OllamaShowBody): Promise<void> {
  const { serving, response } = parts;
  const model = body.model ?? body.name;
  if (model == null) throw invalid("model", "is missing");
  const info = await infoOf(model, parts);
  const name = servedName(model, parts);
  const createdMs = visibleNames(serving, response).find(({ id }) => id === name)?.served.createdMs ?? 0;
  const generates = info.task === "generate";
  await sendRead(parts, () => ({
    modelfile: "",
    parameters: generates ? parametersOf(info) : "",
    template: "",
    modified_at: new Date(createdMs).toISOString(),
    details: detailsOf(info),
    model_info: {
      "general.architecture": info.modelType,
      [`${info.modelType}.context_length`]: info.contextTokens,
      ...(info.embedding ? { [`${info.modelType}.embedding_length`]: info.embedding.dimensions } : {}),
    },
    capabilities: [
      ...(generates ? ["completion"] : []),
      ...(generates && info.hasChatTemplate ? ["tools"] : []),
      ...(info.fillIn ? ["insert"] : []),
      ...(generates && info.reasons ? ["thinking"] : []),
      ...(info.task === "embed" ? ["embedding"] : []),
    ],
  }));
}

/** Lists the parameters of requests without `options`, one on a line. */
function parametersOf({ contextTokens, samplingDefaults }: EngineInfo): string {
  const defaults: SamplingParams = { ...SAMPLING_FALLBACKS, ...samplingDefaults };
  const lines = OLLAMA_PARAMETERS.flatMap(([name, { ollama }]) =>
    [defaults[name] ?? []].flat().map((value: unknown) => [ollama.name, JSON.stringify(value)] as const),
  );
  return [["num_ctx", `${contextTokens}`] as const, ...lines]
    .map(([name, value]) => `${name.padEnd(NAME_WIDTH)} ${value}`)
    .join("\n");
}

/** Answers `GET /api/version`. */
export function ollamaVersion(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ version: VERSION }));
}

function detailsOf({ modelType: family, precision }: EngineInfo): object {
  return {
    parent_model: "",
    format: "",
    family,
    families: [family],
    parameter_size: "",
    quantization_level: precision,
  };
}

const TAG = ":latest";

/** Adds the tag that names without one have in lists: some clients add it to every name, and look for the result. */
function taggedName(id: string): string {
  return id.includes(":") ? id : `${id}${TAG}`;
}

/** Returns the served name of a model: clients add the tag to names without one. */
function servedName(model: string, { serving, response }: Pick<RequestParts, "serving" | "response">): string {
  const isServed = visibleNames(serving, response).some(({ id }) => id === model);
  return isServed || !model.endsWith(TAG) ? model : model.slice(0, -TAG.length);
}

/** Describes the engine that would answer a request. @throws {ApiError} as `ServedModels.lease` */
async function infoOf(model: string, parts: RequestParts): Promise<EngineInfo> {
  const body = { model: servedName(model, parts) };
  const asked = { ...parts, route: { cost: "none" } as const, body, signal: clientSignal(parts.response) };
  return RequestScope.run(asked, async ({ engine: { info } }) => info);
}

/**
 * Ollama's own sampling parameters, for models whose files recommend none. Its penalty of repeated tokens is left out:
 * it looks at 64 tokens, and ours at the whole prompt.
 */
const SAMPLING_FALLBACKS: SamplingDefaults = { temperature: 0.8, topK: 40, topP: 0.9 };
