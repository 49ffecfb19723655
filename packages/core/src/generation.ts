// Results of `Engine.generate`: chunks of completions, and the time when the prompt was accepted.

import { ReadMeError } from "./errors.ts";
import { describeValue, nearestName } from "./options.ts";

/** Reason why a completion ended: an end token or a stop string, or no room for more tokens. */
export type FinishReason = "stop" | "length";

/** A token with its log-probability. */
export interface TokenLogprob {
  readonly id: number;
  readonly text: string;
  /** Log-probability in nats, of the model's own distribution, before temperature and penalties. */
  readonly logprob: number;
}

/**
 * One token of a completion: its id, in `[0, vocabSize)`, and the log-probabilities that were asked for, in nats.
 */
export interface GeneratedToken {
  /** Id of the token. */
  readonly id: number;
  /** Expert of this token; a completion's last token has none. */
  readonly expert?: number;
  /** Log-probability of the token, in nats. Present with `logprobs`. */
  readonly logprob?: number;
  /** The most likely tokens in its place, with their log-probabilities. Present with `logprobs` above 0. */
  readonly topLogprobs?: readonly TokenLogprob[];
}

/** Tokens and waiting time of a request. */
export interface Usage {
  readonly promptTokens: number;
  /** Tokens of all choices, end tokens included. */
  readonly completionTokens: number;
  /** Prompt tokens that came from the prefix cache, summed over all choices. */
  readonly cachedTokens: number;
  /** Longest time that a choice waited for room before it first ran, in ms. */
  readonly queuedMs: number;
  /** Tokens of all choices that were drafted and are part of the completion; 0 without speculation. */
  readonly acceptedDraftTokens: number;
  /** Tokens that were drafted, ran through the model and did not become part of the completion. */
  readonly rejectedDraftTokens: number;
}

/** A piece of one of a request's completions. */
export interface GenerateChunk {
  /** Index of the completion, below `n`. */
  readonly choice: number;
  /** New text: whole characters, without any part of a stop string. May be empty until more tokens decide. */
  readonly text: string;
  /** Tokens of this piece; their text may come in a later piece. */
  readonly tokens: readonly GeneratedToken[];
  /** Present in the last piece of a choice. */
  readonly finishReason?: FinishReason;
  /** Stop string that ended the choice. */
  readonly stop?: string;
  /** Present in the last piece of the last choice. */
  readonly usage?: Usage;
}

/** A prompt that the engine has tokenized, routed and queued. */
export interface AcceptedPrompt {
  readonly promptTokens: number;
  /** Expert of each of the prompt's tokens, `[promptTokens]`. */
  readonly experts: Uint16Array;
}

/** Progress of reading a prompt. */
export interface PromptProgress {
  readonly promptTokens: number;
  /** Tokens of the prompt whose keys and values came from the prefix cache. */
  readonly cachedTokens: number;
  /** Tokens that are read so far, cached ones included; never falls. */
  readonly readTokens: number;
  /** Time that the prompt waited before the first step read from it, in ms. */
  readonly queuedMs: number;
}

/** The chunks of a request, and whether the engine has accepted its prompt. */
export interface Generation extends AsyncIterableIterator<GenerateChunk> {
  /**
   * Resolves once per request, before its first chunk, when the engine has accepted the prompt. Rejects with the error
   * of the iteration if the request ends before that, and with an `AbortError` if the iteration is left before that. It
   * is safe to ignore: a rejection that nobody handles is not reported.
   */
  readonly accepted: Promise<AcceptedPrompt>;
}

// The chunks of a request between the engine that makes them and the one who reads them, and the end of both.

/** Buffers the chunks of one request until its only reader takes them. */
export class GenerationStream<Chunk extends GenerateChunk = GenerateChunk> implements Generation {
  readonly accepted: Promise<AcceptedPrompt>;
  readonly #onLeft: () => void;
  readonly #chunks: Chunk[] = [];
  readonly #waiting: (() => void)[] = [];
  #end: { readonly error?: unknown } | undefined;
  #accept!: (prompt: AcceptedPrompt) => void;
  #refuse!: (error: unknown) => void;

  /** @param onLeft - called when the reader leaves before the end */
  constructor(onLeft: () => void) {
    this.#onLeft = onLeft;
    this.accepted = new Promise((resolve, reject) => ([this.#accept, this.#refuse] = [resolve, reject]));
    // Most readers use the chunks only.
    this.accepted.catch(() => undefined);
  }

  accept(prompt: AcceptedPrompt): void {
    this.#accept(prompt);
  }

  push(chunk: Chunk): void {
    if (this.#end) return;
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** Ends the stream behind the chunks that are not read yet. */
  end(): void {
    this.#end ??= {};
    this.#wake();
  }

  /** Ends the stream with an error, and drops chunks that are not read yet. */
  fail(error: unknown): void {
    if (this.#end) return;
    this.#chunks.length = 0;
    this.#end = { error };
    this.#refuse(error);
    this.#wake();
  }

  /** Ends the stream with an error, behind the chunks that are not read yet. */
  interrupt(error: unknown): void {
    this.#end ??= { error };
    this.#refuse(error);
    this.#wake();
  }

  async next(): Promise<IteratorResult<Chunk, undefined>> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk) return { done: false, value: chunk };
      if (this.#end) {
        const end = this.#end;
        this.#end = {};
        // A caller's function may throw `undefined`.
        if ("error" in end) throw end.error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    if (!this.#end) this.#onLeft();
    this.#end = {};
    this.#refuse(new DOMException("The iteration was left before the prompt was accepted", "AbortError"));
    this.#chunks.length = 0;
    this.#wake();
    return { done: true, value: undefined };
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

// Requests often share a signal, such as a client's or Ctrl-C's. Each signal gets one listener for all of them.
const callbacksOf = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls back when the signal aborts. Never calls back for a signal that has aborted before.
 *
 * @returns a function that stops listening
 */
export function onceAborted(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (!signal) return () => undefined;
  const callbacks = callbacksOf.get(signal) ?? listen(signal);
  // The same function may be given twice, and stopped once.
  const own = (): void => callback();
  callbacks.add(own);
  return () => {
    callbacks.delete(own);
    if (callbacks.size > 0 || callbacksOf.get(signal) !== callbacks) return;
    signal.removeEventListener("abort", callAll);
    callbacksOf.delete(signal);
  };
}

function listen(signal: AbortSignal): Set<() => void> {
  const callbacks = new Set<() => void>();
  callbacksOf.set(signal, callbacks);
  signal.addEventListener("abort", callAll, { once: true });
  return callbacks;
}

function callAll({ target }: Event): void {
  if (!(target instanceof AbortSignal)) return;
  const callbacks = callbacksOf.get(target) ?? [];
  callbacksOf.delete(target);
  for (const callback of callbacks) callback();
}

/**
 * Finds an expert by its name or its index. Names take precedence, so that experts may be called 0, 1, 2. An empty name
 * is the place of an expert that was removed.
 *
 * @throws {RangeError} on an unknown expert; names the known ones
 */
export function expertIndex(names: readonly string[], choice: string | number): number {
  const named = names.indexOf(String(choice));
  if (named >= 0 && choice !== "") return named;
  const index = typeof choice === "number" || /^\d+$/.test(choice) ? Number(choice) : -1;
  if (Number.isInteger(index) && (names[index] ?? "") !== "") return index;
  const known = names.filter((name) => name !== "");
  const near = nearestName(String(choice), known);
  throw new RangeError(
    `Expected \`expert\` to be one of ${known.join(", ")}, or an index below ${names.length}, ` +
      `got ${describeValue(choice)}${near ? `; did you mean ${near}?` : ""}`,
  );
}

// A request of `Engine.follow`.

/** An answer that `generate` has begun, here or at another engine of the same machines, as `follow` names it. */
export interface FollowRequest {
  /** Id of the request that began it. */
  readonly id: string;
  /** Client of that request. For other clients the answer does not exist. @default no name */
  readonly client?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A piece of a message's content, such as `{ type: "text", text: "…" }`. */
export interface ChatContentPart {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** One message of a chat. Templates see every field. */
export interface ChatMessage {
  /** Role of the speaker: `system`, `user`, `assistant`, `tool`, or another role that the template knows. */
  readonly role: string;
  /** May be absent only beside `tool_calls`. */
  readonly content?: string | readonly ChatContentPart[] | null;
  readonly [field: string]: unknown;
}

// Tokens of a prompt, and how they are asked for.

/** Options of `Engine.tokenize`. */
export interface TokenizeOptions {
  /** Adds the special tokens that the model expects, such as BOS. @default true for a text, false for a chat */
  readonly addSpecialTokens?: boolean | undefined;
  /** Refuses a text as soon as it has more tokens. @default Infinity */
  readonly maxTokens?: number | undefined;
  /** Ends the work when it aborts; the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Tokens of a prompt and the expert of each, before the model has run. */
export interface RoutedPrompt {
  readonly tokenIds: Int32Array;
  /** `[tokens]` */
  readonly experts: Uint16Array;
}

// Limits of the values that a chat template gets: they come from callers, and templates walk through them recursively.

// JSON Schemas of tools nest tens of levels deep; a long conversation with tools has about ten thousand values.
const [MAX_DEPTH, MAX_VALUES] = [100, 200_000];

/**
 * Checks all values that a chat template will see.
 * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` on values that are nested too deep, including circular ones, or too many
 */
export function checkTemplateValues(...roots: readonly unknown[]): void {
  const waiting: { readonly value: object; readonly depth: number }[] = [];
  let numValues = 0;
  const look = (value: unknown, depth: number): void => {
    if (++numValues > MAX_VALUES) throw refused(`have more than ${MAX_VALUES} values`);
    if (typeof value !== "object" || value === null) return;
    if (depth > MAX_DEPTH) throw refused(`are nested more than ${MAX_DEPTH} deep`);
    waiting.push({ value, depth });
  };
  for (const root of roots) look(root, 0);
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    for (const value of Object.values(next.value)) look(value, next.depth + 1);
  }
}

function refused(what: string): ReadMeError {
  return new ReadMeError("ERR_CHAT_TEMPLATE", `The messages and the variables of their template ${what}`);
}

// The header `traceparent`, which names the trace and the span that a request belongs to.
// https://www.w3.org/TR/trace-context/#traceparent-header

const VERSION_0 = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
/** Later versions begin like the first, and may be longer. */
const LATER = /^(?!ff|00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?$/;

/** Tells whether a text conforms to the standard. */
export function isTraceparent(text: unknown): boolean {
  return typeof text === "string" && (VERSION_0.test(text) || LATER.test(text));
}
