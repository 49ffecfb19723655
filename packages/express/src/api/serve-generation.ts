// The way of a generation from its body to the end of its answer, for every API that generates.

import { withSamplingDefaults, type SamplingDefaults } from "@readme-moe/core";
import type { z } from "zod";
import { requireTask } from "../edge/served-models.ts";
import { hostRequest, type Incoming, type Reply } from "../http/types.ts";
import { invalid } from "../http/errors.ts";
import { clientSignal, localsOf } from "../http/request.ts";
import { DelayedSignal } from "../http/timers.ts";
import { answerStream, answerWhole } from "./answer.ts";
import { nowSeconds, openAiFormat, type AnswerFormat } from "./answer-format.ts";
import { chatApi } from "./chat.ts";
import type { ChatChoice } from "./chat-shape.ts";
import { checkBody } from "./check-body.ts";
import { completionApi, type CompletionChoice } from "./completions.ts";
import { EventNumbering, readEventId, streamNotFound, type StreamPlace } from "./event-ids.ts";
import { Exchange, type Serving } from "./exchange.ts";
import { expertName, isPrivateExpert } from "./expert-choice.ts";
import { consultPolicy, type AnswerShape, type GenerationApi, type GenerationSettings } from "./generation.ts";
import { logprobBytes } from "./logprobs.ts";
import type { RequestBody, RequestContext } from "./options.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";

/** An API as its clients see it: how its bodies become requests, and how answers are sent. */
export interface GenerationEndpoint<Body extends ChatBody | CompletionBody, Choice extends object> {
  readonly endpoint: RequestContext["endpoint"];
  readonly api: GenerationApi<Body, Choice>;
  /** Reads a body. @throws {ApiError} 400, or 404 for what it names */
  open(sent: unknown, about: OpenParts): OpenedRequest<Body, Choice>;
}

/** Request and services that a body is read with. */
export interface RequestParts {
  readonly serving: Serving;
  readonly request: Incoming;
  readonly response: Reply;
}

/** Parts that a body is read with. */
interface OpenParts extends RequestParts {
  /** Id of the answer, if the request goes on with a stream. @default a new one */
  readonly id: string | undefined;
}

/** A request whose body was read. */
interface OpenedRequest<Body extends ChatBody | CompletionBody, Choice extends object> {
  /** Body in the shape that the generation takes. `onRequest` may replace it. */
  readonly body: Body;
  /** Bytes of earlier items that it has beside those that were sent. @default 0 */
  readonly keptBytes?: number;
  /** Whether its format keeps the answer also where it is streamed. @default false */
  readonly keepsStream?: boolean;
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
  const place = readEventId(parts.request.get("last-event-id"));
  const opened = served.open(parts.request.body, { ...parts, id: place?.answerId });
  const gone = new DelayedSignal(clientSignal(parts.response), parts.serving.timers);
  try {
    await serveOpened(served, opened, { ...parts, place, gone });
  } catch (error) {
    throw opened.translate?.(error) ?? error;
  } finally {
    gone.stop();
    opened.close?.();
  }
}

/** Parts of a request under way. */
interface ServeParts extends RequestParts {
  /** Place in a stream that the request goes on with. */
  readonly place: StreamPlace | undefined;
  /** Aborts when the client has left, and its time to reconnect is over. */
  readonly gone: DelayedSignal;
}

async function serveOpened<Body extends ChatBody | CompletionBody, Choice extends object>(
  { api, endpoint }: GenerationEndpoint<Body, Choice>,
  opened: OpenedRequest<Body, Choice>,
  { serving, request, response, place, gone }: ServeParts,
): Promise<void> {
  const signal = opened.signal ? AbortSignal.any([gone.signal, opened.signal]) : gone.signal;
  const parts = { serving, request, response };
  const body = await changedBody(opened.body, parts, { endpoint, schema: api.schema, signal });
  await Exchange.run({ serving, request, response, body, signal }, async (exchange) => {
    requireTask("generate", exchange, serving.models);
    const own = api.settings(body, exchange);
    const { fallbacks } = opened;
    const { batch } = exchange.locals;
    const defaults = fallbacks && { ...fallbacks, ...exchange.engine.info.samplingDefaults };
    const settings = {
      ...own,
      id: place?.answerId ?? opened.id ?? own.id,
      created: place?.created ?? nowSeconds(),
      params: withSamplingDefaults(own.params, defaults),
      priority: batch?.priority ?? own.priority,
    };
    const { numPrompts, params, priority } = settings;
    const expert = expertName(settings.expert, exchange.engine.info);
    const [choices, bytes] = [numPrompts * (params.n ?? 1), exchange.bodyBytes + (opened.keptBytes ?? 0)];
    // Streams of chunks keep nothing.
    const isKept = body.stream !== true || opened.keepsStream === true;
    const maxBytes = serving.admission.stats.limits.bytes;
    const answerBytes = isKept ? logprobBytes(body, settings, choices, maxBytes) : 0;
    const isExpertPrivate = serving.experts.arePrivate && isPrivateExpert(expert, exchange.engine.info);
    const demand = { bytes, answerBytes, maxCompletionTokens: params.maxTokens, choices, priority };
    exchange.enter({ ...demand, expert, isExpertPrivate });
    const { shape, ...prepared } = await (opened.prepare?.(exchange, settings) ?? api.prepare(exchange, settings));
    exchange.signal.throwIfAborted();
    const input = await consultPolicy(exchange, settings, prepared);
    exchange.signal.throwIfAborted();
    const format = opened.format(exchange, settings, shape);
    const numbering = isFollowable({ exchange, settings, format }) ? newNumbering(settings, place) : undefined;
    if (place && !numbering) throw streamNotFound();
    if (numbering) gone.delayMs = body.read_me?.reconnect_ms ?? 0;
    await (body.stream ? answerStream : answerWhole)({ exchange, settings, input, shape, format, numbering });
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

/**
 * Tells whether another server could send the same events again. Those of several prompts come in an order that is not
 * kept.
 */
function isFollowable({
  exchange: { body, engine },
  settings,
  format,
}: {
  readonly exchange: Exchange<ChatBody | CompletionBody>;
  readonly settings: GenerationSettings;
  readonly format: AnswerFormat<never>;
}): boolean {
  const isStream = body.stream === true && format.framing !== "lines";
  return isStream && settings.numPrompts === 1 && engine.follow !== undefined;
}

function newNumbering({ id, created }: GenerationSettings, place: StreamPlace | undefined): EventNumbering {
  return new EventNumbering({ answerId: id, created }, place);
}

/** Refuses a priority above the limit for clients. `onRequest` may set a higher one. */
function checkPriority({ read_me: fields }: RequestBody, maxPriority: number): void {
  const priority = fields?.priority ?? 0;
  if (priority > maxPriority) {
    throw invalid("read_me.priority", `expected at most ${maxPriority}, the limit of this server, got ${priority}`);
  }
}
