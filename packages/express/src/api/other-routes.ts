// Routes that generate nothing: models, texts to tokens and back in the shapes of vLLM, and operators' loads of loras,
// also in its shapes. Each answer to a client takes room in admission until its reader has taken it or is disconnected.

import { type Engine, ReadMeError } from "@readme-moe/core";
import { type ExpertFolder, isExpertName, liveExperts, type ResolvedExpertsOptions } from "../edge/experts.ts";
import type { ListedModel } from "../edge/models/options.ts";
import type { ServedModels } from "../edge/served-models.ts";
import { badRequest, callerError, engineError, invalid, modelReplaced, unknownModel } from "../http/errors.ts";
import { JSON_TYPE, jsonParts, sendBytes, sendJson, sendText, sumOfBytes } from "../http/reply.ts";
import {
  clientName,
  clientSignal,
  type Incoming,
  knownLocals,
  localsOf,
  type Reply,
  speaksMessages,
} from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { presentTools, templateMessages } from "../tools/tools.ts";
import type { ModelAnswer } from "./answer-schemas.ts";
import { checkIds } from "./generation.ts";
import type { DetokenizeBody, LoadAdapterBody, TokenizeBody, UnloadAdapterBody } from "./request-schemas.ts";
import { type RequestParts, RequestScope, type Serving } from "./request-scope.ts";

export function listModels(parts: RequestParts): Promise<void> {
  return sendRead(parts, () => {
    const data = visibleModels(parts);
    if (!speaksMessages(parts.request)) return { object: "list", data };
    const ids = { first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null };
    return { data: data.map(messagesModel), has_more: false, ...ids };
  });
}

function messagesModel({ id, created, max_model_len: maxTokens }: ModelAnswer): object {
  const createdAt = new Date(created * 1000).toISOString();
  return {
    type: "model",
    id,
    display_name: id,
    created_at: createdAt,
    ...(maxTokens !== undefined && { max_input_tokens: maxTokens, max_tokens: maxTokens }),
  };
}

export function showModel(parts: RequestParts): Promise<void> {
  // Names may contain slashes, as on the Hugging Face hub.
  const wanted = [parts.request.params["id"]].flat().join("/");
  return sendRead(parts, () => {
    const visible = visibleModels(parts);
    const found = visible.find(({ id }) => id === wanted);
    if (!found) {
      throw unknownModel(
        wanted,
        visible.map(({ id }) => id),
      );
    }
    return speaksMessages(parts.request) ? messagesModel(found) : found;
  });
}

function visibleModels({ serving, response }: RequestParts): readonly ModelAnswer[] {
  return visibleNames(serving, response).map(({ id, root, parent, served: { createdMs, info } }) => ({
    id,
    object: "model",
    created: Math.floor(createdMs / 1000),
    owned_by: "readme-moe",
    root,
    parent,
    ...(info.contextTokens !== undefined && { max_model_len: info.contextTokens }),
  }));
}

/** A name of a model, or of one of its experts. */
export interface VisibleName {
  readonly id: string;
  /** First name of the same. */
  readonly root: string;
  /** The model of an expert. */
  readonly parent: string | null;
  readonly served: ListedModel;
}

/** Lists the names of all models, open or not, and of the experts of open ones, that exist for the client. */
export function visibleNames({ models, experts }: Serving, response: Reply): readonly VisibleName[] {
  const { key } = localsOf(response);
  return models.listAll().flatMap((served) => {
    const { name: model, aliases } = served;
    const visible = served.experts.filter(({ name: expert }) => experts.permit({ key, model, expert }));
    return [
      ...[model, ...aliases].map((id) => ({ id, root: model, parent: null, served })),
      ...visible.flatMap(({ ids }) => ids.map((id) => ({ id, root: ids[0] ?? id, parent: model, served }))),
    ];
  });
}

export function tokenize(parts: RequestParts, body: TokenizeBody): Promise<void> {
  return answerLight(parts, "prompt" in body ? "prompt" : "messages", body, async ({ engine, signal }) => {
    const tokens = Array.from(await tokensOf(engine, body, signal));
    return { count: tokens.length, max_model_len: engine.info.contextTokens, tokens };
  });
}

export function detokenize(parts: RequestParts, body: DetokenizeBody): Promise<void> {
  return answerLight(parts, "tokens", body, async ({ engine }) => {
    checkIds("tokens", body.tokens, engine.info);
    return { prompt: await engine.detokenize(body.tokens) };
  });
}

async function tokensOf(engine: Engine, body: TokenizeBody, signal: AbortSignal): Promise<Int32Array> {
  // More than the context, since clients that shorten a conversation need to know by how much.
  const limits = { maxTokens: Math.max(LIMITS.tokenIds.value, engine.info.contextTokens), signal };
  if ("prompt" in body) {
    return engine.tokenize(body.prompt, { addSpecialTokens: body.add_special_tokens ?? true, ...limits });
  }
  try {
    const { messages, template } = presentTools(body, templateMessages(body.messages), engine.info);
    const addGenerationPrompt = body.add_generation_prompt ?? true;
    const variables = { ...body.chat_template_kwargs, ...template, addGenerationPrompt };
    const options = { addSpecialTokens: body.add_special_tokens ?? false, ...limits };
    return await engine.tokenize({ messages, template: variables }, options);
  } catch (error) {
    throw callerError(error, "messages");
  }
}

/** Largest ratio of answer to body: an id and its comma per byte of text, or the text of a long token per id. */
const ANSWER_BYTES_PER_BYTE = 16;

/**
 * Answers without a generation. Keeps a place in admission until the reader has taken the answer.
 *
 * @param param - parameter that holds the texts
 */
export function answerLight<Body extends { readonly model?: string | null | undefined }>(
  parts: RequestParts,
  param: string,
  body: Body,
  answerOf: (scope: RequestScope<Body>) => Promise<object>,
): Promise<void> {
  return RequestScope.run({ ...parts, body, signal: clientSignal(parts.response) }, async (scope) => {
    const bytes = scope.bodyBytes * ANSWER_BYTES_PER_BYTE;
    try {
      scope.enter({ bytes, maxPromptTokens: 0, maxCompletionTokens: 0, choices: 1, priority: 0 });
      const result = await answerOf(scope);
      scope.signal.throwIfAborted();
      scope.ticket.started();
      await sendJson(scope.response, result, scope.serving);
    } catch (error) {
      throw engineError(error, param, scope.engine.info);
    }
  });
}

/** A request for something that the server has. */
export interface ReadParts {
  readonly serving: Pick<Serving, "admission" | "paces" | "slowReaderMs" | "timers">;
  readonly request: Incoming;
  readonly response: Reply;
}

/**
 * Sends JSON. Clients take turns where it takes long to make. Not for an answer that says what the request has changed,
 * since a refusal would hide the change.
 *
 * @param make - returns an object, or the bytes of JSON. What it throws is the answer
 * @throws {ApiError} as `Admission.send`
 */
export async function sendRead(parts: ReadParts, make: () => object | Buffer): Promise<void> {
  const { serving, request, response } = parts;
  const made = await serving.paces.run(clientName(request, response), () => {
    const answer = make();
    return Buffer.isBuffer(answer) ? [answer] : jsonParts(answer);
  });
  await holdRoom(parts, sumOfBytes(made), () => sendBytes(response, { parts: made, type: JSON_TYPE }, serving));
}

/**
 * Keeps room for as many bytes as an answer takes in memory while it is sent.
 *
 * @throws {ApiError} as `Admission.send`
 */
export async function holdRoom(
  { serving: { admission }, request, response }: ReadParts,
  bytes: number,
  send: () => Promise<void>,
): Promise<void> {
  const release = admission.send({ key: knownLocals(response)?.key, client: clientName(request, response), bytes });
  try {
    await send();
  } finally {
    release();
  }
}

/** Largest body of operators' routes. */
export const OPERATOR_BODY_BYTES: number = 16 << 10;

const NAME_RULE =
  "expected a name of up to 64 letters, digits, dots, hyphens and underscores, other than none and router";

export async function loadAdapter(
  { serving: { models, experts }, response }: RequestParts,
  { lora_name: name, lora_path: path }: LoadAdapterBody,
): Promise<void> {
  await change(models, name, async (engine, expert) => {
    if (!isExpertName(expert)) throw invalid("lora_name", NAME_RULE);
    const folder = folderOf(experts);
    const found = await folder.find(path);
    try {
      await liveExperts(engine).load(expert, found, clientSignal(response));
    } catch (error) {
      throw refusedFolder(error, (message) => folder.hidden(message, found, path));
    }
  });
  succeed(response, `LoRA adapter '${name}' added successfully.`);
}

export async function unloadAdapter(
  { serving: { models }, response }: RequestParts,
  { lora_name: name }: UnloadAdapterBody,
): Promise<void> {
  await change(models, name, (engine, expert) => liveExperts(engine).unload(expert, clientSignal(response)));
  succeed(response, `LoRA adapter '${name}' removed successfully.`);
}

function folderOf({ operators }: ResolvedExpertsOptions): ExpertFolder {
  if (!operators?.folder) throw new TypeError("Expected the server to have a folder of experts");
  return operators.folder;
}

/** Changes an engine's experts, and keeps the engine from being disposed meanwhile. */
async function change(
  models: ServedModels,
  id: string,
  make: (engine: Engine, expert: string) => Promise<void>,
): Promise<void> {
  const lease = models.leaseForChange(id);
  const { name, engine, expert } = lease;
  try {
    await make(engine, expert);
    const isServed = models.list().some((served) => served.name === name && served.engine === engine);
    if (!isServed) throw modelReplaced(name);
  } catch (error) {
    throw engineError(error, "lora_path", engine.info);
  } finally {
    lease.release();
  }
}

/** Codes that say that the folder cannot be taken. */
const REFUSALS: ReadonlySet<string> = new Set([
  "ERR_FILE_NOT_FOUND",
  "ERR_FILE_UNREADABLE",
  "ERR_FILE_CORRUPT",
  "ERR_MODEL_INVALID",
  "ERR_MODEL_UNSUPPORTED",
  "ERR_MEMORY",
]);

/** Turns an engine's refusal of an expert into status 400; other errors stay as they are. */
function refusedFolder(error: unknown, hidden: (message: string) => string): unknown {
  const isRefused = error instanceof ReadMeError && REFUSALS.has(error.code);
  if (!isRefused && !(error instanceof TypeError || error instanceof RangeError)) return error;
  // Without its cause, which would count as a failure of the server.
  return badRequest({ message: hidden(error.message), code: "adapter_refused", param: "lora_path" });
}

function succeed(response: Reply, message: string): void {
  sendText(response, `Success: ${message}`, "text/plain; charset=utf-8");
}
