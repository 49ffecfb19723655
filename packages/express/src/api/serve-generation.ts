// Serves a generation from its body to the end of its answer, whole or streamed, for every API that generates.

import { type PromptProgress, type Usage, withSamplingDefaults } from "@readme-moe/core";
import type { z } from "zod";
import { expertName, isPrivateExpert, seenExperts, withSeenRoutes } from "../edge/experts.ts";
import { asApiError, engineError, invalid } from "../http/errors.ts";
import {
  EventNumbering,
  keepOpen,
  readEventId,
  sendJson,
  type SseEvent,
  SseWriter,
  streamNotFound,
  type StreamPlace,
} from "../http/reply.ts";
import {
  ClientGone,
  clientSignal,
  DelayedSignal,
  hostRequest,
  localsOf,
  stampProcessingTime,
} from "../http/request.ts";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "./answer-schemas.ts";
import { checkBody } from "./body.ts";
import {
  type AnswerFormat,
  type AnswerPart,
  type AnswerShape,
  consultPolicy,
  generateAll,
  type GenerationApi,
  type GenerationInput,
  type GenerationSettings,
  openAiFormat,
  type Outcome,
} from "./generation.ts";
import { logprobBytes } from "./logprobs.ts";
import type { RequestBody } from "./options.ts";
import type { ChatBody, CompletionBody } from "./request-schemas.ts";
import { type EngineRouteFacts, type RequestParts, RequestScope } from "./request-scope.ts";

/**
 * Reads a checked body of one API.
 *
 * @throws {ApiError} 400, or 404 for what it names
 */
export type OpenGeneration<Sent, Body extends ChatBody | CompletionBody, Choice extends object, More = object> = (
  sent: Sent,
  parts: OpenParts & More,
) => OpenedGeneration<Body, Choice>;

interface OpenParts extends RequestParts<EngineRouteFacts> {
  /** Id of the answer, if the request goes on with a stream. @default a new one */
  readonly id: string | undefined;
}

/** A generation whose body was read: how its parameters are checked and prepared, and how its answer is sent. */
interface OpenedGeneration<Body extends ChatBody | CompletionBody, Choice extends object> extends GenerationApi<
  Body,
  Choice
> {
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
  /** Time for which the model stays open after its last request, where it is opened on demand. @default as before */
  readonly keepAliveMs?: number | undefined;
  /** Creates the format of the answer. @default that of OpenAI's API */
  format?(scope: RequestScope<Body>, settings: GenerationSettings): AnswerFormat<Choice>;
  /** Gives an error the names of this API's parameters. */
  translate?(error: unknown): unknown;
  /** Called when the request has ended. */
  close?(): void;
}

/** Makes the handler of a route that generates. */
export function generating<Sent, Body extends ChatBody | CompletionBody, Choice extends object, More = object>(
  open: OpenGeneration<Sent, Body, Choice, More>,
): (parts: RequestParts<EngineRouteFacts> & More, sent: Sent) => Promise<void> {
  return async (parts, sent) => {
    const place = readEventId(parts.request.get("last-event-id"));
    const opened = open(sent, { ...parts, id: place?.answerId });
    const gone = new DelayedSignal(clientSignal(parts.response), parts.serving.timers);
    try {
      await serveOpened(opened, { ...parts, place, gone });
    } catch (error) {
      throw opened.translate?.(error) ?? error;
    } finally {
      gone.stop();
      opened.close?.();
    }
  };
}

interface ServeParts extends RequestParts<EngineRouteFacts> {
  /** Place in a stream that the request goes on with. */
  readonly place: StreamPlace | undefined;
  /** Aborts when the client has left, and its time to reconnect is over. */
  readonly gone: DelayedSignal;
}

async function serveOpened<Body extends ChatBody | CompletionBody, Choice extends object>(
  opened: OpenedGeneration<Body, Choice>,
  { place, gone, ...parts }: ServeParts,
): Promise<void> {
  const { serving } = parts;
  const signal = opened.signal ? AbortSignal.any([gone.signal, opened.signal]) : gone.signal;
  const body = await changedBody(opened.body, parts, { schema: opened.schema, signal });
  const { keepAliveMs } = opened;
  await RequestScope.run({ ...parts, body, signal, keepAliveMs }, async (scope) => {
    const own = opened.settings(body, scope);
    const { batch } = scope.locals;
    const { samplingDefaults: defaults } = scope.engine.info;
    const fallbacks = opened.fallbacks?.(own.params.temperature ?? defaults?.temperature);
    const settings = {
      ...own,
      id: place?.answerId ?? opened.id ?? own.id,
      created: place?.created ?? own.created,
      params: withSamplingDefaults(own.params, { ...fallbacks, ...defaults }),
      priority: batch?.priority ?? own.priority,
    };
    const { numPrompts, params, priority } = settings;
    const expert = expertName(settings.expert, scope.engine.info);
    const [choices, bytes] = [numPrompts * (params.n ?? 1), scope.bodyBytes + (opened.keptBytes ?? 0)];
    // Streams of chunks keep nothing.
    const isKept = body.stream !== true || opened.keepsStream === true;
    const maxBytes = serving.admission.stats.limits.bytes;
    const answerBytes = isKept ? logprobBytes(body, settings, choices, maxBytes) : 0;
    const isExpertPrivate = serving.experts.arePrivate && isPrivateExpert(expert, scope.engine.info);
    const demand = { bytes, answerBytes, maxCompletionTokens: params.maxTokens, choices, priority };
    scope.enter({ ...demand, expert, isExpertPrivate });
    const { shape, ...prepared } = await opened.prepare(scope, settings);
    scope.signal.throwIfAborted();
    const input = await consultPolicy(scope, settings, prepared);
    scope.signal.throwIfAborted();
    const format = opened.format?.(scope, settings) ?? openAiFormat(shape, scope, settings);
    const about = { answerId: settings.id, created: settings.created };
    const numbering = isFollowable({ scope, settings, format }) ? new EventNumbering(about, place) : undefined;
    if (place && !numbering) throw streamNotFound();
    if (numbering) gone.delayMs = body.read_me?.reconnect_ms ?? 0;
    await (body.stream ? answerStream : answerWhole)({ scope, settings, input, shape, format, numbering });
  });
}

/**
 * Checks a body's priority, and lets `onRequest` change the body.
 *
 * @throws {ApiError} 400, and whatever `onRequest` throws
 */
export async function changedBody<Body extends RequestBody>(
  sent: Body,
  { serving, request, response, route: { path: endpoint } }: RequestParts<EngineRouteFacts>,
  { schema, signal }: { readonly schema: z.ZodType<Body>; readonly signal: AbortSignal },
): Promise<Body> {
  checkPriority(sent, serving.maxPriority);
  const { requestId, key, batch } = localsOf(response);
  const context = { endpoint, request: hostRequest(request), requestId, key, batch, signal };
  const changed = await serving.onRequest?.(sent, context);
  return changed === undefined ? sent : checkBody(schema, changed);
}

/**
 * Tells whether another server could send the same events again. Those of several prompts come in an order that is not
 * kept.
 */
function isFollowable({
  scope: { body, engine },
  settings,
  format,
}: {
  readonly scope: RequestScope<ChatBody | CompletionBody>;
  readonly settings: GenerationSettings;
  readonly format: AnswerFormat<never>;
}): boolean {
  const isStream = body.stream === true && format.framing !== "lines";
  return isStream && settings.numPrompts === 1 && engine.follow !== undefined;
}

/** Refuses a priority above the limit for clients. `onRequest` may set a higher one. */
function checkPriority({ read_me: fields }: RequestBody, maxPriority: number): void {
  const priority = fields?.priority ?? 0;
  if (priority > maxPriority) {
    throw invalid("read_me.priority", `expected at most ${maxPriority}, the limit of this server, got ${priority}`);
  }
}

interface Answering<Choice extends object> {
  readonly scope: RequestScope;
  readonly settings: GenerationSettings;
  readonly input: GenerationInput & { readonly priority: number };
  readonly shape: AnswerShape<Choice>;
  readonly format: AnswerFormat<Choice>;
  /** Gives events their ids, where the engine keeps answers that can be followed. */
  readonly numbering?: EventNumbering | undefined;
}

async function answerWhole<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { scope, shape, format } = answering;
  const { response, serving, locals } = scope;
  let stop: (() => void) | undefined;
  const hold = (): void => {
    // The line of a batch has no connection.
    if (!locals.batch) stop ??= keepOpen(response, serving);
  };
  try {
    const outcome = await generate(answering, {
      onReading(progress) {
        if (progress) hold();
      },
      async onPart(part) {
        hold();
        format.add({ ...part, choices: await shape.render(part.piece) });
        scope.ticket.kept(format.keptBytes ?? 0);
      },
    });
    scope.ticket.kept(format.keptBytes ?? 0, true);
    const answer = format.whole({ ...outcome, ...reasoningOf(outcome, shape) });
    stop?.();
    stampProcessingTime(response);
    await sendJson(response, answer, serving);
  } finally {
    stop?.();
  }
}

/** Prompts with as many tokens to read take a second on a machine that reads fast. */
const LONG_PROMPT_TOKENS = 512;

/** Tells a client that waits how far its prompts are read. */
function readingComment(progress: PromptProgress | undefined): string {
  if (!progress) return "waiting";
  const [read, all] = [progress.readTokens, progress.promptTokens].map((tokens) => tokens.toLocaleString("en-US"));
  return `reading the prompt ${read} of ${all}`;
}

async function answerStream<Choice extends object>(answering: Answering<Choice>): Promise<void> {
  const { scope, settings, shape, format, numbering } = answering;
  const { response, locals } = scope;
  const numbered = (events: readonly SseEvent[]): readonly SseEvent[] => numbering?.take(events) ?? events;
  const writer = new SseWriter(response, scope.serving, format);
  // The engine accepts a prompt between two steps, and a step on a busy machine may last longer than clients wait.
  if (!numbering?.isReplaying) writer.wait(readingComment(undefined), false);
  try {
    const outcome = await generate(answering, {
      onReading(progress) {
        // The stream that the client goes on with may turn out to be another one.
        if (numbering?.isReplaying) return;
        const isLong = progress && progress.promptTokens - progress.readTokens >= LONG_PROMPT_TOKENS;
        // Progress is no part of a stream that another server could send again.
        if (progress && settings.includes.progress && !numbering) writer.send(...(format.progress?.(progress) ?? []));
        writer.wait(readingComment(progress), isLong ?? false);
      },
      async onPart(part) {
        // Events of one token go out in one write, so that clients measure one arrival.
        writer.send(...numbered(format.add({ ...part, choices: await shape.render(part.piece) })));
        scope.ticket.kept(format.keptBytes ?? 0);
      },
    });
    const last = numbered(format.end({ ...outcome, ...reasoningOf(outcome, shape) }));
    // The client has events of an answer that was longer.
    if (numbering?.isReplaying) throw streamNotFound();
    await writer.end(...last);
  } catch (error) {
    writer.abandon();
    if (!response.headersSent || error instanceof ClientGone) throw error;
    locals.error = error;
    await writer.end(...format.fail(asApiError(error)));
  }
}

function reasoningOf({ usage }: Outcome, shape: AnswerShape<object>): Pick<Outcome, "usage"> {
  const tokens = shape.reasoningTokens?.();
  if (tokens === undefined) return { usage };
  return {
    usage: {
      ...usage,
      completion_tokens_details: {
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
        ...usage.completion_tokens_details,
        reasoning_tokens: tokens,
      },
    },
  };
}

interface GenerateHooks {
  /**
   * Called before the first piece: when the engine has accepted all prompts, and on progress from then on.
   * @param progress - of all prompts together; `undefined` until the engine reads one of them
   */
  readonly onReading: (progress: PromptProgress | undefined) => void;
  /** Gets each piece in order, and with the first one the prompts' routes, if they were asked for. */
  readonly onPart: (part: Omit<AnswerPart<object>, "choices">) => Promise<void>;
}

/** Generates, reports progress to admission, and counts tokens and times. */
async function generate(
  { scope, settings, input, shape, numbering }: Answering<object>,
  { onReading, onPart }: GenerateHooks,
): Promise<Outcome> {
  const { engine, client, cacheSalt, traceparent, signal, ticket, locals } = scope;
  // Experts may be unloaded until the answer comes.
  const seen = settings.includes.routes ? seenExperts(scope) : undefined;
  const promptRoutes = seen && routePrompts(scope, settings, input, seen);
  let firstTokenMs: number | undefined;
  let [promptTokens, completionTokens] = [0, 0];
  // The server that began the answer has charged for what its client got.
  const isFollowed = numbering?.isReplaying ?? false;
  const usages: Usage[] = [];
  const reports = new Map<number, PromptProgress>();
  let numAccepted = 0;
  const tellReading = (): void => {
    // A refused prompt has a status.
    if (numAccepted < input.prompts.length || firstTokenMs !== undefined) return;
    onReading(progressOf([...reports.values()], promptTokens));
  };
  const onProgress = (index: number, progress: PromptProgress): void => {
    ticket.reading();
    reports.set(index, progress);
    tellReading();
  };
  const onAccepted = (prompt: { readonly promptTokens: number; readonly experts: ArrayLike<number> }): void => {
    ticket.correct((promptTokens += prompt.promptTokens));
    // With a policy, `consultPolicy` has reported the routes.
    if (!ticket.consult) ticket.routed(prompt.experts);
    numAccepted++;
    tellReading();
  };
  try {
    const owner = { client, cacheSalt, traceparent, signal };
    const asked = { engine, settings, input, ...owner, isFollowed, onAccepted, onProgress };
    for await (const piece of generateAll(asked)) {
      const isFirst = firstTokenMs === undefined;
      firstTokenMs ??= performance.now();
      if (isFirst) ticket.started();
      if (!numbering?.isReplaying) completionTokens += piece.tokens.length;
      if (piece.usage) usages.push(piece.usage);
      const part = { piece: seen ? withSeenRoutes(piece, seen) : piece, promptTokens };
      await onPart({ ...part, promptRoutes: isFirst ? await promptRoutes : undefined });
      if (piece.usage || !shape.isOver?.(settings.numPrompts * (settings.params.n ?? 1))) continue;
      const drafts = { acceptedDraftTokens: 0, rejectedDraftTokens: 0 };
      usages.push({ promptTokens, completionTokens, cachedTokens: 0, queuedMs: 0, ...drafts });
      break;
    }
  } catch (error) {
    // `onPart` and `promptRoutes` ask the engine as well, which may have failed by then.
    throw engineError(error, settings.promptParam, engine.info);
  } finally {
    // Aborted requests pay for their tokens, too.
    locals.spendTokens?.((isFollowed ? 0 : promptTokens) + completionTokens);
  }
  const usage = usageAnswer(usages, input);
  if (!settings.includes.timings) return { usage };
  const endMs = performance.now();
  const queuedMs = Math.max(0, ...usages.map((one) => one.queuedMs));
  const { arrivalMs } = locals;
  return { usage, ...timingsOf({ arrivalMs, firstTokenMs: firstTokenMs ?? endMs, endMs, queuedMs }, usage) };
}

/** Adds the progress of prompts; `undefined` where none has begun. @param promptTokens - tokens of all prompts */
function progressOf(reports: readonly PromptProgress[], promptTokens: number): PromptProgress | undefined {
  if (reports.length === 0) return undefined;
  const sum = (count: (progress: PromptProgress) => number): number =>
    reports.reduce((total, progress) => total + count(progress), 0);
  const [readTokens, cachedTokens] = [sum((one) => one.readTokens), sum((one) => one.cachedTokens)];
  return { promptTokens, readTokens, cachedTokens, queuedMs: Math.max(...reports.map((one) => one.queuedMs)) };
}

/** Returns the expert of each token of the prompts. @param seen - names of experts that the client may see */
function routePrompts(
  { engine }: RequestScope,
  { expert }: GenerationSettings,
  { prompts }: GenerationInput,
  seen: readonly string[],
): Promise<ReadMeAnswer> {
  const routing = Promise.all(prompts.map((prompt) => engine.route(prompt, expert))).then((routes) => ({
    experts: [...seen],
    prompt_routes: routes.map(({ experts }) => Array.from(experts, (one) => (seen[one] ? one : null))),
  }));
  // The engine also refuses to continue a prompt that it cannot route, and reports that error.
  routing.catch(() => undefined);
  return routing;
}

/**
 * Counts the tokens of an answer.
 * @param usages - one for each prompt
 */
function usageAnswer(usages: readonly Usage[], { prediction }: Pick<GenerationInput, "prediction">): UsageAnswer {
  const sum = (count: (usage: Usage) => number): number => usages.reduce((total, usage) => total + count(usage), 0);
  const [promptTokens, completionTokens] = [sum((usage) => usage.promptTokens), sum((usage) => usage.completionTokens)];
  const accepted = sum((usage) => usage.acceptedDraftTokens);
  const rejected = sum((usage) => usage.rejectedDraftTokens);
  const drafts = { accepted_prediction_tokens: accepted, rejected_prediction_tokens: rejected };
  const hasDrafts = prediction !== undefined || accepted + rejected > 0;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    // The engine sums the cached tokens of all choices, which may exceed the tokens of the prompt.
    prompt_tokens_details: { cached_tokens: sum((usage) => Math.min(usage.cachedTokens, usage.promptTokens)) },
    ...(hasDrafts ? { completion_tokens_details: drafts } : {}),
  };
}

interface AnswerTimings {
  readonly timings: TimingsAnswer;
  readonly readMe: ReadMeAnswer;
}

/** Moments of a request on the monotonic clock, and its time in the engine's queue, in ms. */
interface Moments {
  readonly arrivalMs: number;
  readonly firstTokenMs: number;
  readonly endMs: number;
  readonly queuedMs: number;
}

/** Returns timings in the format of llama-server, and separately the time in the queue. */
function timingsOf({ arrivalMs, firstTokenMs, endMs, queuedMs }: Moments, usage: UsageAnswer): AnswerTimings {
  const beforeMs = firstTokenMs - arrivalMs;
  const queueMs = Math.min(queuedMs, beforeMs);
  const [promptMs, predictedMs] = [beforeMs - queueMs, endMs - firstTokenMs];
  const cached = usage.prompt_tokens_details.cached_tokens;
  const promptTokens = usage.prompt_tokens - cached;
  const completionTokens = usage.completion_tokens;
  return {
    timings: {
      cache_n: cached,
      prompt_n: promptTokens,
      prompt_ms: promptMs,
      prompt_per_token_ms: perToken(promptMs, promptTokens),
      prompt_per_second: perSecond(promptTokens, promptMs),
      predicted_n: completionTokens,
      predicted_ms: predictedMs,
      predicted_per_token_ms: perToken(predictedMs, completionTokens),
      predicted_per_second: perSecond(completionTokens, predictedMs),
      ...draftTimings(usage),
    },
    readMe: { timings: { queue_ms: queueMs, prefill_ms: promptMs, decode_ms: predictedMs } },
  };
}

function draftTimings({
  completion_tokens_details: details,
}: UsageAnswer): Pick<TimingsAnswer, "draft_n" | "draft_n_accepted"> {
  if (!details) return {};
  const accepted = details.accepted_prediction_tokens;
  const drafted = accepted + details.rejected_prediction_tokens;
  return drafted === 0 ? {} : { draft_n: drafted, draft_n_accepted: accepted };
}

const perToken = (ms: number, tokens: number): number | null => (tokens > 0 ? ms / tokens : null);
const perSecond = (tokens: number, ms: number): number | null => (ms > 0 ? (tokens * 1000) / ms : null);
