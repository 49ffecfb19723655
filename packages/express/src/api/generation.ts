// One client's request to an engine: its parameters, the chunks of its prompts and choices as one stream of pieces, and
// the formats that answers are sent in.

import type {
  AcceptedPrompt,
  EngineInfo,
  GenerateChunk,
  Generation,
  ProcessLogits,
  Prompt,
  PromptProgress,
  SamplingDefaults,
  SamplingParams,
} from "@readme-moe/core";
import type { z } from "zod";
import { chosenExpert, type ExpertSource, goneError } from "../edge/experts.ts";
import { type ApiError, callerError, engineError, grammarError, invalid } from "../http/errors.ts";
import { type Framing, type SseEvent, streamNotFound } from "../http/reply.ts";
import type { ReadMeAnswer, TimingsAnswer, UsageAnswer } from "./answer-schemas.ts";
import { type ChatBody, type CompletionBody, samplingOf } from "./request-schemas.ts";
import type { RequestScope } from "./request-scope.ts";

/** Parameters of a request, checked against its model before admission. */
export interface GenerationSettings {
  /** Id of the answer. */
  readonly id: string;
  /** Seconds since 1970 that the answer is dated with. */
  readonly created: number;
  /** Name of the parameter that holds the prompts. */
  readonly promptParam: "messages" | "prompt" | "input" | "inputs" | "documents" | "text_2" | "texts";
  readonly numPrompts: number;
  readonly params: SamplingParams & { readonly maxTokens: number };
  readonly expert: string | number | undefined;
  readonly priority: number;
  readonly includes: Readonly<Record<"routes" | "timings" | "progress" | "usage", boolean>>;
}

/** Contents of a request for its engine. Made after admission, since templates and grammars take time. */
export interface GenerationInput {
  readonly prompts: readonly Prompt[];
  /** Creates what binds the answers to one prompt. @default answers are free */
  readonly newProcessor?: (() => ProcessLogits) | undefined;
  /** Parameter that constrains the answers, if one does. */
  readonly constrainedBy?: string | undefined;
  /** Text that the answers are expected to repeat. */
  readonly prediction?: string | undefined;
  /**
   * Creates what ends the answer to one prompt: it gets each chunk, in order, until it returns true. For requests of
   * one choice.
   *
   * @default the engine alone ends answers
   */
  readonly newBrake?: (() => (chunk: GenerateChunk) => boolean) | undefined;
}

/** Fields that mean the same in both APIs. */
type SharedBody = Pick<ChatBody, Exclude<keyof ChatBody & keyof CompletionBody, "logprobs">>;

/** Fields of `GenerationSettings` that the two APIs derive in different ways. */
interface OwnSettings extends Pick<GenerationSettings, "id" | "promptParam" | "numPrompts"> {
  /** Limit of completion tokens, before the context's. */
  readonly maxTokens: number;
  /** Number of most likely tokens per token, or `undefined` for no log-probabilities. */
  readonly logprobs: number | undefined;
}

/** @throws {ApiError} 400, if a parameter does not fit the model */
export function generationSettings(
  body: SharedBody,
  model: ExpertSource,
  { maxTokens, logprobs, ...own }: OwnSettings,
): GenerationSettings {
  const { info } = model.engine;
  const include = new Set(body.read_me?.include);
  return {
    ...own,
    created: nowSeconds(),
    params: {
      ...samplingParams(body, info),
      // At least one, since the engine gives the chosen token's text with the most likely ones.
      logprobs: logprobs === undefined ? undefined : Math.max(1, logprobs),
      maxTokens: completionLimit(maxTokens, body.min_tokens ?? 0, info),
    },
    expert: chosenExpert(body.read_me?.expert ?? undefined, model),
    priority: body.read_me?.priority ?? 0,
    includes: {
      routes: include.has("routes"),
      timings: include.has("timings"),
      progress: include.has("progress"),
      usage: body.stream_options?.include_usage ?? false,
    },
  };
}

function samplingParams(body: SharedBody, info: EngineInfo): SamplingParams {
  checkIds("stop_token_ids", body.stop_token_ids ?? [], info);
  checkIds("logit_bias", Object.keys(body.logit_bias ?? {}).map(Number), info);
  for (const stop of [body.stop ?? []].flat()) {
    // Decoded text consists of whole characters, so this stop would never match.
    if (/\p{Surrogate}/u.test(stop)) throw invalid("stop", "expected whole characters, got a lone surrogate");
  }
  return samplingOf(body);
}

function completionLimit(wanted: number, minTokens: number, { contextTokens }: EngineInfo): number {
  const maxTokens = Math.min(wanted, contextTokens);
  if (minTokens <= maxTokens) return maxTokens;
  throw invalid("min_tokens", `expected at most ${maxTokens}, the tokens that may be generated, got ${minTokens}`);
}

/** @throws {ApiError} when an id is outside the model's vocabulary */
export function checkIds(param: string, ids: readonly number[], { vocabSize }: EngineInfo): void {
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong !== undefined) throw invalid(param, `expected token ids below ${vocabSize}, got ${wrong}`);
}

/**
 * Lists texts or token ids, of which a body may have one alone.
 * @throws {ApiError} when an id is outside the model's vocabulary
 */
export function checkedTexts(
  param: "prompt" | "input" | "inputs",
  sent: CompletionBody["prompt"],
  info: EngineInfo,
): readonly (string | readonly number[])[] {
  const texts = typeof sent === "string" || isTokenIds(sent) ? [sent] : sent;
  for (const [index, text] of texts.entries()) {
    if (typeof text !== "string") checkIds(texts.length > 1 ? `${param}[${index}]` : param, text, info);
  }
  return texts;
}

function isTokenIds(texts: readonly unknown[]): texts is readonly number[] {
  return typeof texts[0] === "number";
}

/**
 * Routes the prompts and asks the admission policy, if there is one. The returned prompts are token ids, which saves a
 * second tokenization.
 *
 * @returns the input for the engine, and the request's priority
 * @throws {ApiError} when the engine refuses a prompt, or the policy the request
 */
export async function consultPolicy(
  { ticket, engine }: RequestScope,
  { promptParam, expert, priority }: Pick<GenerationSettings, "promptParam" | "expert" | "priority">,
  input: GenerationInput,
): Promise<GenerationInput & { readonly priority: number }> {
  if (!ticket.consult) return { ...input, priority };
  const routing = Promise.all(input.prompts.map((prompt) => engine.route(prompt, expert)));
  const routes = await routing.catch((error: unknown) => {
    throw engineError(callerError(goneError(error, engine, expert), promptParam), promptParam, engine.info);
  });
  ticket.correct(routes.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0));
  for (const { experts } of routes) ticket.routed(experts);
  return { ...input, priority: await ticket.consult(engine.info.experts), prompts: routes.map((one) => one.tokenIds) };
}

/** A chunk of one choice of one prompt. */
export interface Piece extends GenerateChunk {
  /** Index of the choice among those of all prompts. */
  readonly index: number;
  /** Index of the prompt. */
  readonly prompt: number;
}

/** Returns the tokens of a piece that belong to the text: without the end token. */
export function textTokens({ tokens, finishReason, stop }: Piece): Piece["tokens"] {
  return finishReason === "stop" && stop === undefined ? tokens.slice(0, -1) : tokens;
}

/** Routes of a choice's tokens, if the request asks for them. */
export interface ChoiceRoutes {
  readonly read_me?: { readonly routes: readonly (number | null)[] };
}

/** Returns the expert of each token of a piece. The last token of a choice has none. */
export function routesOf({ tokens }: Piece, isIncluded: boolean): ChoiceRoutes {
  if (!isIncluded || tokens.length === 0) return {};
  return { read_me: { routes: tokens.map(({ expert }) => expert ?? null) } };
}

/** Collects the chunks of one choice, and keeps of them what the whole choice has. */
export interface ChoiceCollector<Choice extends object> {
  /** Bytes of its log-probabilities. */
  readonly keptBytes: number;
  add(chunk: Choice): void;
  whole(): object;
}

/** Turns pieces of text into choices in the shape of one of the two APIs. */
export interface AnswerShape<Choice extends object> {
  /** Values of `object` in an answer and in a chunk. */
  readonly objects: { readonly whole: string; readonly chunk: string };
  /** Returns the choices that a piece is sent as, in order. Each goes into a chunk of its own. */
  render(piece: Piece): Promise<readonly Choice[]>;
  /** Begins to collect the chunks of one choice. */
  collect(index: number): ChoiceCollector<Choice>;
  /** Tells whether all choices are complete although the model goes on. */
  isOver?(numChoices: number): boolean;
  /** Returns the tokens of reasoning in all choices so far, if the model reasons. */
  reasoningTokens?(): number | undefined;
}

/** A kind of generation: a chat, or the continuation of texts. */
export interface GenerationApi<Body extends ChatBody | CompletionBody, Choice extends object> {
  readonly schema: z.ZodType<Body>;
  /**
   * Returns sampling parameters for what neither the request nor the model's files say.
   *
   * @param temperature - of the request or the files, if they name one
   * @default the engine's
   */
  fallbacks?(temperature: number | undefined): SamplingDefaults;
  /** Checks the body against the model, before admission. @throws {ApiError} 400 */
  settings(body: Body, model: ExpertSource & Pick<RequestScope, "model">): GenerationSettings;
  /** Does the work that takes time, after admission. @throws {ApiError} 400 */
  prepare(
    scope: RequestScope<Body>,
    settings: GenerationSettings,
  ): Promise<GenerationInput & { readonly shape: AnswerShape<Choice> }>;
}

export interface GenerateAllRequest extends Pick<
  RequestScope,
  "engine" | "client" | "cacheSalt" | "traceparent" | "signal"
> {
  readonly settings: Pick<GenerationSettings, "id" | "promptParam" | "params" | "expert">;
  readonly input: GenerationInput & { readonly priority: number };
  /** Whether the answer has begun before, and is followed instead of generated. */
  readonly isFollowed: boolean;
  /** Called once for each prompt. */
  readonly onAccepted: (prompt: AcceptedPrompt) => void;
  /** Called when the engine begins to read a prompt, and on its progress, where the engine tells. */
  readonly onProgress: (index: number, progress: PromptProgress) => void;
}

/**
 * Generates all choices of all prompts. The first piece comes after the engine has accepted every prompt, so that no
 * answer begins if one of its prompts is refused.
 *
 * @throws {ApiError} when the engine refuses a prompt or fails
 * @throws the reason of `signal`
 */
export async function* generateAll(request: GenerateAllRequest): AsyncGenerator<Piece, void, undefined> {
  const { engine, settings, input, signal, isFollowed, onAccepted } = request;
  const { client, cacheSalt, traceparent } = request;
  const { id, promptParam, params, expert } = settings;
  const { prompts, newProcessor, constrainedBy, prediction, newBrake, priority } = input;
  const paramOf = (index: number): string => (prompts.length === 1 ? promptParam : `${promptParam}[${index}]`);
  const open: AsyncIterator<GenerateChunk>[] = [];

  const begin = async (prompt: Prompt, index: number): Promise<AsyncIterator<Piece>> => {
    try {
      const requestId = prompts.length === 1 ? id : `${id}.${index}`;
      const processLogits = newProcessor?.();
      const about = { expert, priority, client, cacheSalt, traceparent, id: requestId, signal };
      const onProgress = (progress: PromptProgress): void => request.onProgress(index, progress);
      const own = { prompt, params, processLogits, prediction, onProgress, ...about };
      const generation = isFollowed ? await followed({ engine, id, client, signal }) : engine.generate(own);
      open.push(generation);
      const accepted = await generation.accepted;
      onAccepted(accepted);
      return pieces(newBrake ? braked(generation, accepted, newBrake()) : generation, index);
    } catch (error) {
      const param = isAboutPrediction(error) ? "prediction" : paramOf(index);
      throw engineError(callerError(goneError(error, engine, expert), param), param, engine.info);
    }
  };

  async function* pieces(generation: AsyncIterable<GenerateChunk>, prompt: number): AsyncGenerator<Piece, void> {
    try {
      for await (const chunk of generation) yield { ...chunk, prompt, index: prompt * (params.n ?? 1) + chunk.choice };
    } catch (error) {
      // The prompt was accepted, so an error of the caller's function is one of the grammar.
      throw engineError(
        constrainedBy === undefined ? error : grammarError(error, constrainedBy),
        paramOf(prompt),
        engine.info,
      );
    }
  }

  try {
    yield* merge(await Promise.all(prompts.map(begin)));
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    // Ends generations that began before another prompt was refused.
    await Promise.allSettled(open.map(async (generation) => generation.return?.()));
  }
}

/** Ends a generation after the first chunk with which `brake` returns true, as if there was no room for more tokens. */
async function* braked(
  generation: AsyncIterable<GenerateChunk>,
  { promptTokens }: AcceptedPrompt,
  brake: (chunk: GenerateChunk) => boolean,
): AsyncGenerator<GenerateChunk, void, undefined> {
  let completionTokens = 0;
  for await (const chunk of generation) {
    completionTokens += chunk.tokens.length;
    if (chunk.finishReason || !brake(chunk)) {
      yield chunk;
      continue;
    }
    // The engine counts at the end of an answer only, so cached tokens are not known.
    const known = { cachedTokens: 0, acceptedDraftTokens: 0, rejectedDraftTokens: 0, queuedMs: 0 };
    yield { ...chunk, finishReason: "length", usage: { promptTokens, completionTokens, ...known } };
    return;
  }
}

async function followed({
  engine,
  ...about
}: Pick<GenerateAllRequest, "engine" | "client" | "signal"> & { readonly id: string }): Promise<Generation> {
  const generation = await engine.follow?.(about);
  if (!generation) throw streamNotFound();
  return generation;
}

/** Tells whether an engine refuses the prediction: messages about a caller's mistake begin with its option. */
function isAboutPrediction(error: unknown): boolean {
  return error instanceof RangeError && error.message.startsWith("Expected `prediction` ");
}

type Arrival<Item> =
  | { readonly source: AsyncIterator<Item>; readonly result: IteratorResult<Item> }
  | { readonly error: unknown };

/** Merges the items of several sources in the order of their arrival. Fails as soon as one source fails. */
async function* merge<Item>(sources: readonly AsyncIterator<Item>[]): AsyncGenerator<Item, void, undefined> {
  // `Promise.race` would keep a reference to every item for as long as one source is silent.
  const arrived: Arrival<Item>[] = [];
  let wake: (() => void) | undefined;
  const ask = async (source: AsyncIterator<Item>): Promise<void> => {
    try {
      arrived.push({ source, result: await source.next() });
    } catch (error) {
      arrived.push({ error });
    }
    wake?.();
  };
  for (const source of sources) void ask(source);
  for (let numOpen = sources.length; numOpen > 0;) {
    const arrival = arrived.shift();
    if (!arrival) {
      await new Promise<void>((resolve) => (wake = resolve));
      continue;
    }
    if ("error" in arrival) throw arrival.error;
    if (arrival.result.done) {
      numOpen--;
      continue;
    }
    void ask(arrival.source);
    yield arrival.result.value;
  }
}

/** Figures that are known at the end of a generation. */
export interface Outcome {
  readonly usage: UsageAnswer;
  readonly timings?: TimingsAnswer;
  readonly readMe?: ReadMeAnswer;
}

/** A piece of an answer, and the choices that it is rendered as. */
export interface AnswerPart<Choice extends object> {
  readonly piece: Piece;
  readonly choices: readonly Choice[];
  /** Routes of the prompts, with the first part, if the request asks for them. */
  readonly promptRoutes: ReadMeAnswer | undefined;
  readonly promptTokens: number;
}

/** Form in which one answer is sent. It holds the state of that answer. */
export interface AnswerFormat<Choice extends object> {
  /** Form in which events are streamed. @default "events", which are server-sent */
  readonly framing?: Framing;
  /** Event that keeps a stream open. @default a comment */
  readonly ping?: SseEvent;
  /** Bytes of the log-probabilities that it keeps. @default none */
  readonly keptBytes?: number;
  /** Returns the events that progress is streamed as, if the request asks for it. @default none */
  progress?(progress: PromptProgress): readonly SseEvent[];
  /** Takes a part. @returns the events that it is streamed as */
  add(part: AnswerPart<Choice>): readonly SseEvent[];
  /** Returns the last events of a stream. */
  end(outcome: Outcome): readonly SseEvent[];
  /** Returns the whole answer. */
  whole(outcome: Outcome): object;
  /** Returns the events of an error that comes after the stream has begun. */
  fail(error: ApiError): readonly SseEvent[];
}

/** Returns the seconds since 1970 that an answer is dated with. */
export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

/** Creates the format of `/v1/chat/completions` and `/v1/completions`. */
export function openAiFormat<Choice extends object>(
  shape: AnswerShape<Choice>,
  { model, engine, body }: Pick<RequestScope<ChatBody | CompletionBody>, "model" | "engine" | "body">,
  { id, created, includes }: Pick<GenerationSettings, "id" | "created" | "includes">,
): AnswerFormat<Choice> {
  const kept = new Map<number, ChoiceCollector<Choice>>();
  let keptBytes = 0;
  let routes: ReadMeAnswer | undefined;
  const headOf = (object: string, at: number): object => ({
    id,
    object,
    created: at,
    model,
    system_fingerprint: `readme-moe-${engine.info.precision}`,
  });
  // A stream's chunks all have the time of its beginning.
  const head = headOf(shape.objects.chunk, created);
  const noUsage = includes.usage ? { usage: null } : {};
  return {
    get keptBytes() {
      return keptBytes;
    },
    progress({ readTokens, cachedTokens, promptTokens, queuedMs }) {
      const tokens = { read_tokens: readTokens, cached_tokens: cachedTokens, prompt_tokens: promptTokens };
      return [{ data: { ...head, choices: [], ...noUsage, read_me: { progress: { ...tokens, queue_ms: queuedMs } } } }];
    },
    add({ piece, choices, promptRoutes }) {
      if (!body.stream) {
        routes ??= promptRoutes;
        const collector = kept.get(piece.index) ?? shape.collect(piece.index);
        kept.set(piece.index, collector);
        const before = collector.keptBytes;
        for (const choice of choices) collector.add(choice);
        keptBytes += collector.keptBytes - before;
        return [];
      }
      return choices.map((choice, index) => ({
        data: {
          ...head,
          choices: [choice],
          ...noUsage,
          ...(index === 0 && promptRoutes ? { read_me: promptRoutes } : {}),
        },
      }));
    },
    end(outcome) {
      const last = includes.usage ? { usage: outcome.usage } : {};
      const hasFigures = includes.usage || includes.timings;
      const figures = hasFigures ? [{ data: { ...head, choices: [], ...last, ...extrasOf(outcome, undefined) } }] : [];
      return [...figures, { data: "[DONE]" }];
    },
    whole(outcome) {
      const choices = [...kept].toSorted(([a], [b]) => a - b).map(([, collector]) => collector.whole());
      const whole = headOf(shape.objects.whole, nowSeconds());
      return { ...whole, choices, usage: outcome.usage, ...extrasOf(outcome, routes) };
    },
    // Without `[DONE]`: clients must not take the stream for complete.
    fail: (error) => [{ data: error.toJSON() }],
  };
}

function extrasOf({ timings, readMe }: Outcome, promptRoutes: ReadMeAnswer | undefined): object {
  const all = { ...promptRoutes, ...readMe };
  return { ...(timings ? { timings } : {}), ...(Object.keys(all).length > 0 ? { read_me: all } : {}) };
}
