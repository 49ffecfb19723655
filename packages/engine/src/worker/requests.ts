// Requests on the worker's side: prompts are tokenized in time slices between steps, and become sequences of the core.

import { isFillIn, ReadMeError, StopAutomaton, type RoutedPrompt } from "@readme-moe/core";
import {
  CompletionText,
  encodeChat,
  encodeFillIn,
  type EncodeOptions,
  type ModelConfig,
  type PromptModel,
} from "@readme-moe/model";
import { routeWhole } from "@readme-moe/router";
import type { ResolvedEngineOptions } from "../engine-options.ts";
import type { EngineChunk } from "../engine-parts.ts";
import type { MemoryPlan } from "../memory-plan.ts";
import { type RequestNews, tooManyPredicted, type WireChat, type WirePrompt, type WireRequest } from "../protocol.ts";
import {
  addDrafts,
  draftUsage,
  NO_DRAFTS,
  resumeCompletion,
  type ResumedCompletion,
  type Sequence,
  type SequenceStart,
} from "../sequence.ts";
import type { OpenedEngine } from "./open-engine.ts";

/** An opened engine, and the long work that runs between its steps. */
export interface RunningEngine extends OpenedEngine {
  readonly slices: TimeSlices;
}

/** The parts of an engine that its prompts need. */
export interface ReadingEngine extends Pick<RunningEngine, "text" | "slices" | "routerFor"> {
  readonly model: Pick<PromptModel, "path" | "config">;
  readonly options: Pick<ResolvedEngineOptions, "controlTokensInMessages">;
  readonly sizes: Pick<MemoryPlan, "contextTokens">;
}

interface RequestEntry {
  sequences: readonly Sequence[];
  numFinished: number;
  isAccepted: boolean;
  readonly reportsProgress: boolean;
  /** Last report of progress, and its time. */
  reported?: { readonly readTokens: number; readonly atMs: number };
  /** Ends the work that precedes the sequences. */
  readonly leave: AbortController;
}

const REPORT_MS = 200;

/** The running requests: the sequences of each, and their usage together. */
export class WorkerRequests {
  readonly #engine: RunningEngine;
  readonly #onFailed: (requestId: string, error: unknown) => void;
  readonly #requests = new Map<string, RequestEntry>();
  #arrivals = 0;

  constructor(engine: RunningEngine, onFailed: (requestId: string, error: unknown) => void) {
    this.#engine = engine;
    this.#onFailed = onFailed;
  }

  /** Adds a request's sequences to the core. Reports errors to `onFailed`. */
  async begin(request: WireRequest): Promise<void> {
    const { prompt, expert, keptId, truncates, reportsProgress = false, ...own } = request;
    const { requestId, params } = own;
    const leave = new AbortController();
    const entry: RequestEntry = { sequences: [], numFinished: 0, isAccepted: false, reportsProgress, leave };
    this.#requests.set(requestId, entry);
    try {
      const { signal } = leave;
      const [ids, prediction] = await Promise.all([
        promptIds(this.#engine, prompt, signal, { isWhole: own.isPooled, cuts: truncates }),
        predictionIds(this.#engine, request.prediction, signal),
      ]);
      const router = await this.#engine.routerFor(expert);
      const stops = new StopAutomaton(params.stop);
      const resumed = await this.#resumed(request, ids.length, stops, signal);
      // The request may have been aborted meanwhile.
      if (this.#requests.get(requestId) !== entry) return;
      const { keptPrompts } = this.#engine;
      const onPrefilled: SequenceStart["onPrefilled"] =
        keptId === undefined ? undefined : (sequence, slot) => keptPrompts.computed(keptId, sequence, slot);
      const shared = { ...own, stops, onPrefilled, promptIds: ids, prediction };
      entry.sequences = Array.from({ length: params.n }, (_, choice) => {
        const id = params.n === 1 ? requestId : `${requestId}/${choice}`;
        const arrival = this.#arrivals++;
        const about = { id, choice, arrival, arrivalMs: performance.now(), resumed: resumed[choice] };
        return this.#engine.core.add({ ...shared, ...about }, router);
      });
    } catch (error) {
      if (this.#requests.get(requestId) === entry) this.#onFailed(requestId, error);
    }
  }

  /** Takes the tokens that were generated before, in time slices. @throws {RangeError} behind a choice's end */
  async #resumed(
    { resume = [], params }: WireRequest,
    promptTokens: number,
    stops: StopAutomaton,
    signal: AbortSignal,
  ): Promise<readonly ResumedCompletion[]> {
    const { slices, text, model, sizes } = this.#engine;
    const ends = { eosTokenIds: model.config.eosTokenIds, contextTokens: sizes.contextTokens };
    const each = resume.map((tokenIds, choice) => {
      const own = new CompletionText(text.tokenizer, stops);
      return slices.begin(resumeCompletion(tokenIds, own, { params, promptTokens, choice }, ends), signal);
    });
    return Promise.all(each);
  }

  /** @returns the prompt of the sequence's request; nothing if another choice was accepted before */
  accept({ requestId, promptTokens, experts }: Sequence): RequestNews | undefined {
    const entry = this.#requests.get(requestId);
    if (!entry || entry.isAccepted) return undefined;
    entry.isAccepted = true;
    const prompt = { promptTokens, experts: Uint16Array.from(experts.slice(0, promptTokens)) };
    return { type: "accepted", requestId, prompt };
  }

  /** @returns the progress of the first choice's prompt; nothing where it is not asked for, or was reported just now */
  progress(sequence: Sequence, nowMs: number): RequestNews | undefined {
    const { requestId, choice, promptTokens, cachedTokens, startedMs = nowMs, arrivalMs } = sequence;
    const entry = this.#requests.get(requestId);
    if (!entry?.reportsProgress || choice > 0) return undefined;
    const { readTokens: before = 0, atMs = -Infinity } = entry.reported ?? {};
    if (nowMs - atMs < REPORT_MS) return undefined;
    // A preempted sequence begins again.
    const readTokens = Math.max(before, Math.min(sequence.numComputedTokens, promptTokens));
    entry.reported = { readTokens, atMs: nowMs };
    const progress = { promptTokens, cachedTokens, readTokens, queuedMs: startedMs - arrivalMs };
    return { type: "progress", requestId, progress };
  }

  abort(requestId: string, reason?: "abort" | "error"): void {
    this.#requests.get(requestId)?.leave.abort();
    if (this.#requests.delete(requestId)) this.#engine.core.abort(requestId, reason);
  }

  /** Ends all requests after the step that runs; resolves when its tokens have been given to the output. */
  async drain(): Promise<void> {
    for (const [requestId, { sequences, leave }] of this.#requests) {
      leave.abort();
      if (sequences.length > 0) this.#engine.core.abort(requestId);
      else this.#requests.delete(requestId);
    }
    await this.#engine.core.whenNone(() => true);
    this.#requests.clear();
  }

  /** Adds the usage to the last chunk of a request, and forgets the request. */
  complete(requestId: string, chunk: EngineChunk): EngineChunk {
    const entry = this.#requests.get(requestId);
    if (!entry || !chunk.finishReason) return chunk;
    entry.numFinished++;
    const { sequences, numFinished } = entry;
    if (numFinished < sequences.length) return chunk;
    this.#requests.delete(requestId);
    const sum = (count: (sequence: Sequence) => number): number =>
      sequences.reduce((total, sequence) => total + count(sequence), 0);
    const usage = {
      promptTokens: sequences[0]?.promptTokens ?? 0,
      completionTokens: sum(({ completionTokens }) => completionTokens),
      cachedTokens: sum(({ cachedTokens }) => cachedTokens),
      queuedMs: Math.max(...sequences.map(({ startedMs, arrivalMs }) => (startedMs ?? arrivalMs) - arrivalMs)),
      ...draftUsage(addDrafts(NO_DRAFTS, sequences)),
    };
    return { ...chunk, usage };
  }
}

/**
 * Tokenizes a prompt, in time slices between steps and other prompts.
 *
 * @throws {RangeError} on an empty prompt
 * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when there is no room for one more token; `ERR_CHAT_TEMPLATE`
 */
export async function promptIds(
  engine: ReadingEngine,
  prompt: WirePrompt,
  signal: AbortSignal,
  { isWhole = false, cuts = engine.model.config.encoder !== undefined }: PromptLimits = {},
): Promise<Int32Array> {
  const { sizes, slices } = engine;
  const maxTokens = sizes.contextTokens - (isWhole ? 0 : 1);
  const tooMany = (tokens: string): ReadMeError => {
    const context = `the context of ${sizes.contextTokens} leaves no room for ${isWhole ? "it" : "a completion"}`;
    return new ReadMeError("ERR_CONTEXT_LENGTH", `The prompt has ${tokens} tokens; ${context}`);
  };
  const limits = { maxTokens, cuts, tooMany: (atLeast: number) => tooMany(`at least ${atLeast}`) };
  const ids = prompt instanceof Int32Array ? prompt : await slices.begin(encoding(engine, prompt, limits), signal);
  if (ids.length === 0) throw new RangeError("Expected `prompt` to hold at least one token, got none");
  if (ids.length <= maxTokens) return ids;
  throw tooMany(String(ids.length));
}

/** Computes the experts of a prompt's tokens. */
export async function routedPrompt(
  engine: Pick<ReadingEngine, "routerFor">,
  tokenIds: Int32Array,
  expert: WireRequest["expert"],
): Promise<RoutedPrompt> {
  const [experts = new Uint16Array()] = await routeWhole(await engine.routerFor(expert), [tokenIds]);
  return { tokenIds, experts };
}

/**
 * Tokenizes a prediction as a prompt is, without the model's special tokens.
 *
 * @throws {RangeError} on more tokens than the context has
 */
async function predictionIds(
  { sizes: { contextTokens }, slices, text: { tokenizer } }: RunningEngine,
  prediction: WireRequest["prediction"],
  signal: AbortSignal,
): Promise<Int32Array | undefined> {
  if (typeof prediction !== "string") return prediction;
  const tooMany = (atLeast: number): RangeError => tooManyPredicted(contextTokens, `at least ${atLeast}`);
  const limits = { addSpecialTokens: false, maxTokens: contextTokens, tooMany };
  return slices.begin(tokenizer.encodeInSteps(prediction, limits), signal);
}

interface PromptLimits {
  /** Whether nothing follows the prompt, which may then fill the context. @default false */
  readonly isWhole?: boolean | undefined;
  /** Whether a text that is too long loses its end. @default true of encoders, as with sentence-transformers */
  readonly cuts?: boolean | undefined;
}

interface EncodingLimits extends Pick<EncodeOptions, "maxTokens" | "cuts" | "tooMany"> {
  readonly addSpecialTokens?: boolean | undefined;
}

/** Encodes the query and the document of a chat for an encoder: segments are parts of ids (`EncoderDescription`). */
function* encodePair(
  tokenizer: ReadingEngine["text"]["tokenizer"],
  { vocabSize, encoder }: ModelConfig,
  { messages }: WireChat,
  { maxTokens = Infinity, cuts = true, tooMany }: EncodingLimits,
): PausingWork<Int32Array> {
  const contentOf = (role: string): string => {
    const content = messages.find((message) => message.role === role)?.content;
    if (typeof content === "string") return content;
    throw new TypeError("Expected a query and a document: this model is an encoder, which reads no chats");
  };
  if (messages.some(({ role }) => role === "system"))
    throw new TypeError(
      "Expected no `instruction`: this model is an encoder, which reads a query and a document alone",
    );
  const texts = [contentOf("query"), contentOf("document")] as const;
  const { ids, segments } = yield* tokenizer.encodePairInSteps(texts, maxTokens, cuts ? undefined : tooMany);
  const hasSegments = (encoder?.numSegments ?? 0) > 1;
  return hasSegments ? ids.map((id, index) => id + segments[index]! * vocabSize) : ids;
}

/** Share of the context that a prompt has at most where other files are added to a text with a gap. */
const SHARE_WITH_FILES = 0.75;

/** Tokenizes a text, a chat or a text with a gap, with a pause after each piece. */
export function encoding(
  engine: Omit<ReadingEngine, "slices">,
  prompt: Exclude<WirePrompt, Int32Array>,
  { addSpecialTokens, ...limits }: EncodingLimits,
): PausingWork<Int32Array> {
  const {
    text: { tokenizer, chatTemplate },
    options: { controlTokensInMessages },
    sizes,
    model: { config },
  } = engine;
  const options = addSpecialTokens === undefined ? limits : { ...limits, addSpecialTokens };
  if (typeof prompt === "string") return tokenizer.encodeInSteps(prompt, options);
  if (isFillIn(prompt)) {
    const filesWithinTokens = Math.floor(SHARE_WITH_FILES * sizes.contextTokens);
    return encodeFillIn(tokenizer, prompt, { ...limits, filesWithinTokens });
  }
  if (config.encoder)
    return encodePair(tokenizer, config, prompt, { ...limits, maxTokens: limits.maxTokens ?? sizes.contextTokens });
  return encodeChat(tokenizer, chatTemplate, prompt, { ...options, controlTokensInMessages });
}

/** Work that pauses often, and that may be abandoned at any pause. */
type PausingWork<Result> = Generator<void, Result>;

interface Waiting {
  readonly reject: (error: unknown) => void;
  /** Runs up to the next pause. @returns whether the work is done */
  readonly advance: () => boolean;
}

/** Short slices keep steps and messages from waiting for long work. */
const [FIRST_SLICE_MS, SLICE_MS] = [1, 5];

/** Runs long work in time slices, round robin, so that short work behind long work ends soon. */
export class TimeSlices {
  readonly #now: () => number;
  readonly #waiting: Waiting[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get hasWork(): boolean {
    return this.#waiting.length > 0;
  }

  /**
   * Runs the first slice of a work at once; most work is done then.
   * @param signal - abandons the work; the promise rejects with its reason
   */
  async begin<Result>(work: PausingWork<Result>, signal?: AbortSignal): Promise<Result> {
    signal?.throwIfAborted();
    return new Promise<Result>((resolve, reject) => {
      const advance = (): boolean => {
        const { done, value } = work.next();
        if (done === true) resolve(value);
        return done === true;
      };
      const waiting: Waiting = { advance, reject };
      if (this.#advance(waiting, FIRST_SLICE_MS)) return;
      this.#waiting.push(waiting);
      signal?.addEventListener("abort", () => {
        const index = this.#waiting.indexOf(waiting);
        if (index < 0) return;
        this.#waiting.splice(index, 1);
        reject(signal.reason);
      });
    });
  }

  /**
   * Continues the waiting works, for `maxMs` together.
   * @param maxMs - at most 5 ms are used, because everything else waits meanwhile
   */
  run(maxMs: number = SLICE_MS): void {
    const sliceMs = Math.min(maxMs, SLICE_MS);
    const endMs = this.#now() + sliceMs;
    for (let leftMs = sliceMs; leftMs > 0; leftMs = endMs - this.#now()) {
      const next = this.#waiting.shift();
      if (!next) return;
      if (!this.#advance(next, leftMs)) this.#waiting.push(next);
    }
  }

  /** @returns whether the work is done */
  #advance({ advance, reject }: Waiting, maxMs: number): boolean {
    try {
      const endMs = this.#now() + maxMs;
      do {
        if (advance()) return true;
      } while (this.#now() < endMs);
      return false;
    } catch (error) {
      reject(error);
      return true;
    }
  }
}
