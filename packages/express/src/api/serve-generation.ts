// The way of a generation from its body to the end of its answer, for every API that generates.

import { withSamplingDefaults, type SamplingDefaults } from "@readme-moe/core";
import type { z } from "zod";
import { requireTask } from "../edge/model-task.ts";
import { hostRequest, type Incoming, type Reply } from "../http/border.ts";
import { invalid } from "../http/errors.ts";
import { clientSignal, localsOf } from "../http/request.ts";
import { answerStream, answerWhole } from "./answer.ts";
import { openAiFormat, type AnswerFormat } from "./answer-format.ts";
import { chatApi } from "./chat.ts";
import type { ChatChoice } from "./chat-shape.ts";
import { checkBody } from "./check-body.ts";
import { completionApi, type CompletionChoice } from "./completions.ts";
import { Exchange, type Serving } from "./exchange.ts";
import { expertName } from "./expert-choice.ts";
import { consultPolicy, type AnswerShape, type GenerationApi, type GenerationSettings } from "./generation.ts";
import type { RequestBody, RequestContext } from "./options.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";

/** An API as its clients see it: how its bodies become requests, and how answers are sent. */
export interface GenerationEndpoint<Body extends ChatBody | CompletionBody, Choice extends object> {
  readonly endpoint: RequestContext["endpoint"];
  readonly api: GenerationApi<Body, Choice>;
  /** Reads a body. @throws {ApiError} 400, or 404 for what it names */
  open(sent: unknown, about: RequestParts): OpenedRequest<Body, Choice>;
}

/** Request and services that a body is read with. */
export interface RequestParts {
  readonly serving: Serving;
  readonly request: Incoming;
  readonly response: Reply;
}

/** A request whose body was read. */
interface OpenedRequest<Body extends ChatBody | CompletionBody, Choice extends object> {
  /** Body in the shape that the generation takes. `onRequest` may replace it. */
  readonly body: Body;
  /** Id of the answer. @default one that the generation makes */
  readonly id?: string;
  /** Aborts when the request shall end although its client waits. */
  readonly signal?: AbortSignal;
  /** Sampling parameters where neither the request nor the model's files say them. @default the engine's */
  readonly fallbacks?: SamplingDefaults;
  /** Prepares the answer in place of the generation's own `prepare`. */
  readonly prepare?: GenerationApi<Body, Choice>["prepare"];
  /** Creates the format of the answer. */
  format(exchange: Exchange<Body>, settings: GenerationSettings, shape: AnswerShape<Choice>): AnswerFormat<Choice>;
  /** Gives an error the names of this API's parameters. */
  translate?(error: unknown): unknown;
  /** Called when the request has ended. */
  close?(): void;
}

export const chatEndpoint: GenerationEndpoint<ChatBody, ChatChoice> = ownShape("/v1/chat/completions", chatApi);
export const completionEndpoint: GenerationEndpoint<CompletionBody, CompletionChoice> = ownShape(
  "/v1/completions",
  completionApi,
);

/** Creates the endpoint whose bodies are the generation's own. */
function ownShape<Body extends ChatBody | CompletionBody, Choice extends object>(
  endpoint: RequestContext["endpoint"],
  api: GenerationApi<Body, Choice>,
): GenerationEndpoint<Body, Choice> {
  return {
    endpoint,
    api,
    open: (sent) => ({
      body: checkBody(api.schema, sent),
      format: (exchange, settings, shape) => openAiFormat(shape, exchange, settings),
    }),
  };
}

/** Serves a generation: checks the body, leases an engine, enters admission, generates and answers. */
export async function serveGeneration<Body extends ChatBody | CompletionBody, Choice extends object>(
  served: GenerationEndpoint<Body, Choice>,
  parts: RequestParts,
): Promise<void> {
  const opened = served.open(parts.request.body, parts);
  try {
    await serveOpened(served, opened, parts);
  } catch (error) {
    throw opened.translate?.(error) ?? error;
  } finally {
    opened.close?.();
  }
}

async function serveOpened<Body extends ChatBody | CompletionBody, Choice extends object>(
  { api, endpoint }: GenerationEndpoint<Body, Choice>,
  opened: OpenedRequest<Body, Choice>,
  { serving, request, response }: RequestParts,
): Promise<void> {
  const gone = clientSignal(response);
  const signal = opened.signal ? AbortSignal.any([gone, opened.signal]) : gone;
  const parts = { serving, request, response };
  const body = await changedBody(opened.body, parts, { endpoint, schema: api.schema, signal });
  await Exchange.run({ serving, request, response, body, signal }, async (exchange) => {
    requireTask("generate", exchange, serving.models);
    const own = api.settings(body, exchange);
    const { id = own.id, fallbacks } = opened;
    const { batch } = exchange.locals;
    const defaults = fallbacks && { ...fallbacks, ...exchange.engine.info.samplingDefaults };
    const settings = {
      ...own,
      id,
      params: withSamplingDefaults(own.params, defaults),
      priority: batch?.priority ?? own.priority,
    };
    const { numPrompts, params, priority } = settings;
    const expert = expertName(settings.expert, exchange.engine.info);
    exchange.enter({ maxCompletionTokens: params.maxTokens, choices: numPrompts * (params.n ?? 1), priority, expert });
    const { shape, ...prepared } = await (opened.prepare?.(exchange, settings) ?? api.prepare(exchange, settings));
    exchange.signal.throwIfAborted();
    const input = await consultPolicy(exchange, settings, prepared);
    exchange.signal.throwIfAborted();
    const format = opened.format(exchange, settings, shape);
    await (body.stream ? answerStream : answerWhole)({ exchange, settings, input, shape, format });
  });
}

/**
 * Checks a body's priority, and lets `onRequest` change the body.
 *
 * @throws {ApiError} 400, and whatever `onRequest` throws
 */
export async function changedBody<Body extends RequestBody>(
  sent: Body,
  { serving, request, response }: RequestParts,
  about: {
    readonly endpoint: RequestContext["endpoint"];
    readonly schema: z.ZodType<Body>;
    readonly signal: AbortSignal;
  },
): Promise<Body> {
  checkPriority(sent, serving.maxPriority);
  const { requestId, key, batch } = localsOf(response);
  const { endpoint, schema, signal } = about;
  const context = { endpoint, request: hostRequest(request), requestId, key, batch, signal };
  const changed = await serving.onRequest?.(sent, context);
  return changed === undefined ? sent : checkBody(schema, changed);
}

/** Refuses a priority above the limit for clients. `onRequest` may set a higher one. */
function checkPriority({ read_me: fields }: RequestBody, maxPriority: number): void {
  const priority = fields?.priority ?? 0;
  if (priority > maxPriority) {
    throw invalid("read_me.priority", `expected at most ${maxPriority}, the limit of this server, got ${priority}`);
  }
}
