// Messages between the two sides of an engine. They are plain data, so that the model can run in a thread, in another
// process, or on another machine.

import {
  errorChain,
  ReadMeError,
  type AcceptedPrompt,
  type ChatMessage,
  type EngineInfo,
  type EngineStats,
  type EngineVocabulary,
  type ErrorLink,
  type FillInPrompt,
  type LoadProgress,
  type LogitsContext,
  type PromptInfo,
  type PromptProgress,
  type ReadMeErrorCode,
  type ReadMeEvents,
  type ResolvedSamplingParams,
  type RoutedPrompt,
} from "@readme-moe/core";
import type { WireAllowance } from "./allowed-tokens.ts";
import type { ResolvedEngineOptions, ResolvedReaderOptions, ResolvedSchedulingOptions } from "./engine-options.ts";
import type { CallerQuestion, EngineChunk } from "./engine-parts.ts";

export interface WireChat {
  readonly messages: readonly ChatMessage[];
  readonly template: Readonly<Record<string, unknown>>;
}

/** A prompt in a message: a text, token ids, a chat, or a text with a gap. */
export type WirePrompt = string | Int32Array | WireChat | FillInPrompt;

/** Calls that have one answer. */
export interface Calls {
  tokenize: {
    readonly args: {
      readonly prompt: Exclude<WirePrompt, Int32Array>;
      readonly addSpecialTokens: boolean | undefined;
      readonly maxTokens: number;
    };
    readonly result: Int32Array;
  };
  detokenize: { readonly args: { readonly tokenIds: Int32Array }; readonly result: string };
  applyTemplate: {
    readonly args: WireChat;
    readonly result: string;
  };
  route: {
    readonly args: { readonly prompt: WirePrompt; readonly expert: string | number | undefined };
    readonly result: RoutedPrompt;
  };
  vocabulary: { readonly args: Readonly<Record<string, never>>; readonly result: EngineVocabulary };
  /** Reads the layers that fill masks, once. */
  openMaskedHead: { readonly args: Readonly<Record<string, never>>; readonly result: void };
  /** Computes logits of all tokens, `[states * vocabSize]`, behind `openMaskedHead`. */
  maskedLogits: { readonly args: { readonly states: Float32Array }; readonly result: Float32Array<ArrayBuffer> };
  setScheduling: { readonly args: ResolvedSchedulingOptions; readonly result: void };
  /** The results are the names of all experts. */
  addExpert: { readonly args: { readonly name: string; readonly path: string }; readonly result: readonly string[] };
  removeExpert: { readonly args: { readonly name: string }; readonly result: readonly string[] };
  /** Keeps a prompt, or answers "none" as its source; a request with its `keptId` then computes it. */
  keepPrompt: {
    readonly args: { readonly keptId: number; readonly prompt: WirePrompt; readonly expert: string | undefined };
    readonly result: WireKept;
  };
  /** Saves a prompt that was computed. The result is why it could not be saved, if it could not. */
  savePrompt: { readonly args: { readonly keptId: number }; readonly result: string | undefined };
  releasePrompt: { readonly args: { readonly keptId: number }; readonly result: void };
  setExpertCacheBytes: { readonly args: { readonly bytes: number }; readonly result: void };
  /** Ends all requests. Their last chunks come before the result. */
  drain: { readonly args: Readonly<Record<string, never>>; readonly result: void };
  stats: { readonly args: Readonly<Record<string, never>>; readonly result: EngineStats };
}

export type CallName = keyof Calls;

export interface WireKept {
  readonly tokenIds: Int32Array;
  /** Number of the first tokens that are kept. */
  readonly keptTokens: number;
  readonly source: "memory" | "saved" | "none";
  /** Why the file of the prompt was refused. */
  readonly refusal?: string | undefined;
}

export interface WireRequest {
  readonly requestId: string;
  readonly prompt: WirePrompt;
  readonly params: ResolvedSamplingParams;
  readonly expert: string | number | undefined;
  readonly priority: number;
  readonly client?: string | undefined;
  readonly cacheSalt?: string | undefined;
  readonly seed: number;
  /** A text or token ids that the completion is expected to repeat. */
  readonly prediction?: string | Int32Array | undefined;
  /** Tokens of each choice that were generated before, `[n]` lists. */
  readonly resume?: readonly Int32Array[] | undefined;
  /** Whether each row of logits goes to the caller first, and its sequence waits for the changed row. */
  readonly processesLogits: boolean;
  /** Whether the caller is asked for the tokens that may come next; no rows are sent then. */
  readonly isBound?: boolean | undefined;
  /** Id of the prompt, which is kept when it is computed. */
  readonly keptId?: number | undefined;
  /** Whether the result is that of the prompt's last token, and nothing is generated. @default false */
  readonly isPooled?: boolean | undefined;
  /** Whether no other text of the same call follows, for which the first step would wait. */
  readonly comesAlone?: boolean | undefined;
  /** Whether the result is those of all tokens. @default false */
  readonly givesStates?: boolean | undefined;
  /** Whether the end of a long text is left out. @default true of encoders, false of decoders */
  readonly truncates?: boolean | undefined;
  /** Whether progress of reading the prompt is reported. @default false */
  readonly reportsProgress?: boolean | undefined;
}

/** Makes the error for a prediction that is too long, on either side. @param tokens - their number, as far as known */
export function tooManyPredicted(contextTokens: number, tokens: string): RangeError {
  return new RangeError(`Expected \`prediction\` to have at most ${contextTokens} tokens, got ${tokens}`);
}

/** A question to the caller of a request. */
export type WireQuestion = CallerQuestion & {
  readonly requestId: string;
  /** Unique; the answer names it. */
  readonly questionId: number;
  readonly context: LogitsContext;
};

export type ToWorker =
  | { readonly type: "open"; readonly path: string; readonly options: ResolvedEngineOptions }
  /** Opens what prompts need, without weights. Only calls about prompts follow. */
  | { readonly type: "read"; readonly path: string; readonly options: ResolvedReaderOptions }
  | ({ readonly type: "generate" } & WireRequest)
  /** `reason` is that of `sequence:finished`. */
  | { readonly type: "abort"; readonly requestId: string; readonly reason: "abort" | "error" }
  | {
      readonly type: "answer";
      readonly questionId: number;
      readonly answer: Float32Array<ArrayBuffer> | WireAllowance;
    }
  | { readonly type: "call"; readonly callId: number; readonly name: CallName; readonly args: Calls[CallName]["args"] }
  /** Cancels a call. */
  | { readonly type: "cancel"; readonly callId: number }
  /** Names the events that have listeners; no others are sent. */
  | { readonly type: "listen"; readonly names: readonly WireEvent["name"][] }
  /** Asks for a sign of life. */
  | { readonly type: "ping" }
  | { readonly type: "close" }
  /** Ends the worker between two steps, without an answer and without releasing anything. */
  | { readonly type: "end" };

export type RequestNews =
  | { readonly type: "accepted"; readonly requestId: string; readonly prompt: AcceptedPrompt }
  | { readonly type: "progress"; readonly requestId: string; readonly progress: PromptProgress }
  | { readonly type: "chunk"; readonly requestId: string; readonly chunk: EngineChunk }
  | { readonly type: "failed"; readonly requestId: string; readonly error: WireError }
  /** Nothing follows of a request that was aborted. */
  | { readonly type: "left"; readonly requestId: string };

export type WireEvent = {
  [Name in keyof ReadMeEvents]: { readonly name: Name; readonly payload: Parameters<ReadMeEvents[Name]>[0] };
}[keyof ReadMeEvents];

export type FromWorker =
  | { readonly type: "progress"; readonly progress: LoadProgress }
  | {
      readonly type: "opened";
      readonly info: EngineInfo;
      readonly cacheFailure: string | undefined;
      /** Predicted time of a step of as many tokens as one may have, which reads all weights from the disk. */
      readonly longestStepMs: number;
    }
  | { readonly type: "reading"; readonly info: PromptInfo }
  | { readonly type: "failed"; readonly error: WireError }
  /** Events and news of requests, in the order in which they happened. */
  | { readonly type: "news"; readonly news: readonly (RequestNews | ({ readonly type: "event" } & WireEvent))[] }
  | ({ readonly type: "ask" } & WireQuestion)
  | { readonly type: "result"; readonly callId: number; readonly value: unknown }
  | { readonly type: "error"; readonly callId: number; readonly error: WireError }
  | { readonly type: "pong" }
  | { readonly type: "closed" };

/** Lists the memory of a message that can be transferred instead of copied, where both sides are in one process. */
export function movable(message: ToWorker | FromWorker): ArrayBuffer[] {
  if (message.type === "ask" && "logits" in message) return [message.logits.buffer];
  if (message.type !== "answer") return [];
  return [message.answer instanceof Float32Array ? message.answer.buffer : message.answer.masks.buffer];
}

/** An error in a message. Classes do not survive, so their names are sent. */
export interface WireError {
  readonly kind: "TypeError" | "RangeError" | "Error";
  readonly code: ReadMeErrorCode | undefined;
  readonly message: string;
  readonly stack: string | undefined;
  /** Causes, outermost first. */
  readonly causes: readonly ErrorLink[];
}

const CALLERS_MISTAKES = { TypeError, RangeError };

export function toWire(error: unknown): WireError {
  const code = error instanceof ReadMeError ? error.code : undefined;
  if (!(error instanceof Error)) return { kind: "Error", code, message: String(error), stack: undefined, causes: [] };
  const kind = error instanceof TypeError ? "TypeError" : error instanceof RangeError ? "RangeError" : "Error";
  return { kind, code, message: error.message, stack: error.stack, causes: errorChain(error.cause) };
}

/** Recreates an error. Its `cause` has the stack of the other side, and its causes there. */
export function fromWire({ kind, code, message, stack, causes }: WireError): Error {
  const beneath = causes.reduceRight<Error | undefined>((inner, link) => namedError(link, inner), undefined);
  const cause = new Error(message, beneath && { cause: beneath });
  if (stack !== undefined) cause.stack = stack;
  if (kind !== "Error") return new CALLERS_MISTAKES[kind](message, { cause });
  return new ReadMeError(code ?? "ERR_ENGINE_FAILED", message, { cause });
}

function namedError({ name, code, message }: ErrorLink, cause: Error | undefined): Error {
  const error = new Error(message, cause && { cause });
  return Object.assign(error, { name, ...(code === undefined ? {} : { code }) });
}
