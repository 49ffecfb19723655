// Routes of Ollama's API: its chats, completions and embeddings become requests of the other APIs. Names of its models
// end with a tag.

import { createHash, randomUUID } from "node:crypto";
import {
  type EngineInfo,
  parseDurationMs,
  type SamplingDefaults,
  type SamplingParams,
  wireName,
} from "@readme-moe/core";
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
  ...translated(body, asMessage),
  body: { ...chatOf(body), model: servedName(body.model, parts) },
}));

const generateChatOfPrompt = generating<OllamaGenerateBody, ChatBody, ChatChoice>((body, parts) => ({
  ...chatApi,
  ...translated(body, asResponse),
  body: { ...chatOfPrompt(body), model: servedName(body.model, parts) },
}));

const generateText = generating<OllamaGenerateBody, CompletionBody, CompletionChoice>((body, parts) => ({
  ...completionApi,
  ...translated(body, asResponse),
  body: { ...completionOf(body), model: servedName(body.model, parts) },
}));

function translated({ model, keep_alive: keepAlive }: Kept, write: typeof asMessage) {
  return {
    keepAliveMs: keepAliveOf(keepAlive),
    id: `ollama-${randomUUID()}`,
    fallbacks: () => SAMPLING_FALLBACKS,
    format: () => new OllamaFormat(model, write, now),
    translate: (error: unknown) => renameParams(error, PARAMS),
  };
}

/** Parts of a body that say how long a model stays open. */
type Kept = Pick<OllamaChatBody, "model" | "keep_alive">;

/** Returns a time in ms, `Infinity` for ever. @throws {ApiError} 400 */
function keepAliveOf(keepAlive: Kept["keep_alive"]): number | undefined {
  if (keepAlive == null) return undefined;
  const ms = typeof keepAlive === "string" ? parseDurationMs(keepAlive) : keepAlive < 0 ? Infinity : 1000 * keepAlive;
  if (ms === undefined) throw invalid("keep_alive", "expected seconds, or a duration such as 5m");
  return ms;
}

/** Answers `POST /api/chat`. Without messages it opens the model, or closes it where it is not to stay. */
export async function ollamaChat(parts: EngineParts, body: OllamaChatBody): Promise<void> {
  if (body.messages && body.messages.length > 0) return generateChat(parts, body);
  return answerLoaded(parts, body, asMessage({ content: "" }));
}

/**
 * Answers `POST /api/generate`. A prompt becomes a chat, unless the request or the model leaves the template out, or
 * there is a suffix.
 */
export async function ollamaGenerate(parts: EngineParts, body: OllamaGenerateBody): Promise<void> {
  if (!body.prompt && !body.suffix) return answerLoaded(parts, body, asResponse({ content: "" }));
  const isText = body.suffix || body.raw || !(await infoOf(body.model, parts)).hasChatTemplate;
  return isText ? generateText(parts, body) : generateChatOfPrompt(parts, body);
}

async function answerLoaded(parts: RequestParts, body: Kept, texts: object): Promise<void> {
  const { model } = body;
  const keepAliveMs = keepAliveOf(body.keep_alive);
  const isUnloaded = keepAliveMs === 0 && parts.serving.models.unload(servedName(model, parts));
  if (!isUnloaded) await openedInfo(model, parts, keepAliveMs);
  const end = { done: true, done_reason: isUnloaded ? "unload" : "load" };
  await sendRead(parts, () => ({ model, created_at: now().toISOString(), ...texts, ...end }));
}

export async function ollamaEmbed(
  parts: EngineParts,
  { model, input, dimensions, truncate, keep_alive: keepAlive }: OllamaEmbedBody,
): Promise<void> {
  const startMs = performance.now();
  const body = { model: servedName(model, parts), input, dimensions };
  await serveEmbeddings(parts, body, {
    param: "input",
    truncate: truncate ?? true,
    keepAliveMs: keepAliveOf(keepAlive),
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
export async function ollamaEmbedOne(
  parts: EngineParts,
  { model, prompt, keep_alive: keepAlive }: OllamaEmbedOneBody,
): Promise<void> {
  const body = { model: servedName(model, parts), input: prompt };
  await serveEmbeddings(parts, body, {
    param: "input",
    truncate: true,
    keepAliveMs: keepAliveOf(keepAlive),
    answer: ([values = new Float32Array()]) => ({ embedding: Array.from(values) }),
  });
}

/** Version of Ollama's API that these routes follow; clients refuse older ones. */
const VERSION = "0.12.6";

/** Time of a model that stays open: Ollama writes one as far away as this where `keep_alive` is negative. */
const NEVER = "2318-01-01T00:00:00Z";
/** Times that are further away, about 300 years, count as never. */
const MAX_LEFT_MS = 1e13;

/** Width of the names in `parameters`, as Ollama writes them. */
const NAME_WIDTH = 30;

export function ollamaModels(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ models: visibleNames(parts.serving, parts.response).map(modelOf) }));
}

/** Answers `GET /api/ps`, which lists the models that are open. */
export function ollamaRunning(parts: RequestParts): Promise<void> {
  const { models } = parts.serving;
  const expiry = (name: string): string => {
    const leftMs = models.closesInMs(name);
    return leftMs > MAX_LEFT_MS ? NEVER : new Date(now().getTime() + leftMs).toISOString();
  };
  return sendRead(parts, () => ({
    models: visibleNames(parts.serving, parts.response)
      .filter(({ served }) => served.isOpen)
      .map((named) => ({
        ...modelOf(named),
        expires_at: expiry(named.served.name),
        size_vram: 0,
        context_length: named.served.info.contextTokens,
      })),
  }));
}

function modelOf({ id, served: { createdMs, info } }: VisibleName): object {
  const name = taggedName(id);
  return {
    name,
    model: name,
    modified_at: new Date(createdMs).toISOString(),
    size: info.weightBytes ?? 0,
    digest:
      info.modelVersion ??
      createHash("sha256")
        .update(info.path ?? id)
        .digest("hex"),
    details: detailsOf(info),
  };
}

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
      ...(generates && info.reasoningForm ? ["thinking"] : []),
      ...(info.task === "embed" ? ["embedding"] : []),
    ],
  }));
}

/** Lists the parameters of requests without `options`, one on a line. */
function parametersOf({ contextTokens, samplingDefaults }: KnownInfo): string {
  const defaults: SamplingParams = { ...SAMPLING_FALLBACKS, ...samplingDefaults };
  const lines = OLLAMA_PARAMETERS.flatMap(([name, { ollama }]) =>
    [defaults[name] ?? []].flat().map((value: unknown) => [ollama.name, JSON.stringify(value)] as const),
  );
  return [["num_ctx", `${contextTokens}`] as const, ...lines]
    .map(([name, value]) => `${name.padEnd(NAME_WIDTH)} ${value}`)
    .join("\n");
}

export function ollamaVersion(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => ({ version: VERSION }));
}

function detailsOf({ modelType: family = "", precision = "" }: Partial<EngineInfo>): object {
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

/** Facts about a model that the routes need. */
type KnownInfo = Pick<EngineInfo, "task" | "modelType" | "contextTokens" | "hasChatTemplate" | "reasoningForm"> &
  Partial<EngineInfo>;

/** Describes a model. Opens it if too little is known of it. @throws {ApiError} as `ServedModels.lease` */
async function infoOf(model: string, parts: RequestParts): Promise<KnownInfo> {
  const name = servedName(model, parts);
  const served = visibleNames(parts.serving, parts.response).find(({ id }) => id === name)?.served;
  return served && !served.isOpen && isKnown(served.info) ? served.info : openedInfo(model, parts);
}

function isKnown(info: Partial<EngineInfo>): info is KnownInfo {
  return info.task !== undefined && info.contextTokens !== undefined;
}

/** Describes the engine that would answer a request. @throws {ApiError} as `ServedModels.lease` */
async function openedInfo(model: string, parts: RequestParts, keepAliveMs?: number): Promise<EngineInfo> {
  const body = { model: servedName(model, parts) };
  const asked = { ...parts, route: { cost: "none" } as const, body, signal: clientSignal(parts.response), keepAliveMs };
  return RequestScope.run(asked, async ({ engine: { info } }) => info);
}

/**
 * Ollama's own sampling parameters, for models whose files recommend none. Its penalty of repeated tokens is left out:
 * it looks at 64 tokens, and ours at the whole prompt.
 */
const SAMPLING_FALLBACKS: SamplingDefaults = { temperature: 0.8, topK: 40, topP: 0.9 };
