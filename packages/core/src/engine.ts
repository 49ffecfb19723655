import type { ChatMessage } from "./chat-message.ts";
import type { ReadMeEmitter } from "./emitter.ts";
import type { ReadMeError } from "./errors.ts";
import type { KernelInfo } from "./kernel-info.ts";
import type { ExpertCacheCounters } from "./expert-cache/expert-cache.ts";
import type { SamplingParams } from "./sampling/sampling-params.ts";

/** A chat, which the model's template turns into a text. */
export interface ChatPrompt {
  readonly messages: readonly ChatMessage[];
  /** Variables of the template, such as `addGenerationPrompt`, `tools`, `documents`. */
  readonly template?: Readonly<Record<string, unknown>> | undefined;
}

/**
 * What to continue: a text, token ids, or a chat. Spellings of control tokens, such as `<|im_end|>`, are control tokens in
 * a text; in the strings of a chat they are text, as long as the engine is not told otherwise.
 */
export type Prompt = string | ArrayLike<number> | ChatPrompt;

/** Which token a row of logits is for. */
export interface LogitsContext {
  /** Prompt, then what was generated so far; the token that comes next is not there yet. */
  readonly tokenIds: Int32Array;
  readonly promptTokens: number;
  /** Which of the `n` completions. */
  readonly choice: number;
}

/**
 * @param logits - `[vocabSize]`, in nats; may be changed in place, and is no longer the function's once it has answered
 * @returns nothing where `logits` itself is to count, else what counts instead of it, of the same length
 */
export type ProcessLogits = (
  logits: Float32Array,
  context: LogitsContext,
) => Float32Array | void | Promise<Float32Array | void>;

/** What `Engine.generate` takes: one prompt, and how it is to be continued. */
export interface GenerateRequest {
  readonly prompt: Prompt;
  readonly params?: SamplingParams | undefined;
  /**
   * Changes logits before a token is chosen. Called where `generate` was, once for each new token of each choice, with
   * the model's own logits: bias, penalties, temperature and the rest of `params` apply to what it makes of them, while
   * log-probabilities are of the model's own. `-Infinity` forbids a token.
   *
   * A choice waits for the answer, with its place and its KV memory, and others go on; the choices of a request do not
   * wait for each other. What the function throws ends the request and is thrown while iterating, as are a `TypeError`
   * on what is no `Float32Array`, and a `RangeError` on another length, NaN, `Infinity`, or when no token is left.
   *
   * @default none
   */
  readonly processLogits?: ProcessLogits | undefined;
  /** One expert for every token, by name or index, instead of the engine's router. */
  readonly expert?: string | number | undefined;
  /** Of sequences that wait, those with the larger number go first. @default 0 */
  readonly priority?: number | undefined;
  /**
   * Names whose request it is. Clients share time and places evenly, however many requests each of them has.
   * @default nobody in particular: requests without a name count as one client's
   */
  readonly client?: string | undefined;
  /** Names the request in events. @default one that the engine makes */
  readonly id?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Why a completion ended: an end token or a stop string, or no room for more. */
export type FinishReason = "stop" | "length";

/** A token that could have come, and how likely the model thought it. */
export interface TokenLogprob {
  readonly id: number;
  readonly text: string;
  /** In nats, of the model's own distribution, before temperature and penalties. */
  readonly logprob: number;
}

/**
 * One token of a completion: its id, in `[0, vocabSize)`, and what was asked for about it. Log-probabilities are in
 * nats.
 */
export interface GeneratedToken {
  readonly id: number;
  /** Expert that this token goes to; a completion's last token goes to none. */
  readonly expert?: number;
  readonly logprob?: number;
  readonly topLogprobs?: readonly TokenLogprob[];
}

/** Tokens that a request took. */
export interface Usage {
  readonly promptTokens: number;
  /** Of all choices, end tokens included. */
  readonly completionTokens: number;
  /** Prompt tokens that did not have to be computed again. */
  readonly cachedTokens: number;
  /** Longest time that a choice waited for room before it first ran, in ms. */
  readonly queuedMs: number;
}

/** A piece of one of a request's completions. */
export interface GenerateChunk {
  /** Which of the `n` completions. */
  readonly choice: number;
  /** New text: whole characters, never a part of a stop string. May be empty while more is needed to decide. */
  readonly text: string;
  /** The tokens of this piece; their text may still be held back. */
  readonly tokens: readonly GeneratedToken[];
  /** In the last piece of a choice. */
  readonly finishReason?: FinishReason;
  /** The stop string that ended it. */
  readonly stop?: string;
  /** In the last piece of the last choice. */
  readonly usage?: Usage;
}

/** A prompt that the engine has tokenized, routed and queued. */
export interface AcceptedPrompt {
  readonly promptTokens: number;
  /** Expert of each of the prompt's tokens, `[promptTokens]`. */
  readonly experts: Uint16Array;
}

/** The chunks of a request, and whether the engine has accepted its prompt. */
export interface Generation extends AsyncIterableIterator<GenerateChunk> {
  /**
   * Resolves once per request, before its first chunk, when the engine has accepted the prompt. Rejects with the error of
   * the iteration if the request ends before that, and with an `AbortError` if the iteration is left before that. It is
   * safe to ignore: a rejection that nobody handles is not reported.
   */
  readonly accepted: Promise<AcceptedPrompt>;
}

/** What an engine serves. The same for as long as it is open. */
export interface EngineInfo {
  /** Folder or file of the model. */
  readonly path: string;
  readonly modelType: string;
  readonly precision: string;
  readonly vocabSize: number;
  readonly contextTokens: number;
  /** One name per expert; a dense model has one. */
  readonly experts: readonly string[];
  readonly hasRouter: boolean;
  readonly hasChatTemplate: boolean;
  /** Its chat template has a place for `tools`. */
  readonly chatTemplateKnowsTools: boolean;
  readonly eosTokenIds: readonly number[];
  readonly maxNumSeqs: number;
  readonly kvCapacityTokens: number;
  /** Kernel that runs the steps. */
  readonly kernel?: KernelInfo | undefined;
}

/** What binds an answer to a grammar has to know of a model's tokens. */
export interface EngineVocabulary {
  /** As many as logits. */
  readonly vocabSize: number;
  /** The bytes of all tokens, one after the other; often parts of UTF-8 characters. */
  readonly bytes: Uint8Array;
  /**
   * `[vocabSize + 1]`: token `id` has the bytes from `offsets[id]` up to `offsets[id + 1]`. Tokens that steer the model,
   * and ids without a token, add nothing to a text and have none.
   */
  readonly offsets: Uint32Array;
  /** Tokens that end a completion. */
  readonly eosTokenIds: readonly number[];
}

/**
 * Counters since the engine was opened, and what it holds now. Counts are of sequences, steps, tokens and bytes, as
 * named.
 */
export interface EngineStats {
  /** Sequences that wait for room. */
  readonly numWaiting: number;
  /** Sequences that hold KV memory. */
  readonly numRunning: number;
  readonly kvUsedTokens: number;
  readonly kvCapacityTokens: number;
  readonly steps: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  readonly preemptions: number;
  /** Memory of the process or thread that runs the model. */
  readonly residentBytes: number;
  /** Absent when all experts are in memory. */
  readonly expertCache?: ExpertCacheStats;
}

/** Figures of experts that come and go. A unit is one layer of one expert. */
export interface ExpertCacheStats extends ExpertCacheCounters {
  /** Bytes of one expert in each layer. */
  readonly layerBytes: readonly number[];
  readonly budgetBytes: number;
  /** Units in memory, reads under way included. */
  readonly usedBytes: number;
  /** Of reads, those that failed, also when tried again. */
  readonly failedReads: number;
  /** Time in which a step waited for reads. */
  readonly stallMs: number;
}

/** How `Engine.tokenize` is to work. */
export interface TokenizeOptions {
  /** Adds what the model expects around a text, such as a BOS token. @default true for a text, false for a chat */
  readonly addSpecialTokens?: boolean | undefined;
  /** Refuses a text with more tokens, as soon as that is known: often from its length alone. @default Infinity */
  readonly maxTokens?: number | undefined;
  /** Ends the work when it is aborted; the promise is rejected with its reason then. */
  readonly signal?: AbortSignal | undefined;
}

/** A prompt's tokens and the expert that each goes to, before the model has run. */
export interface RoutedPrompt {
  readonly tokenIds: Int32Array;
  /** `[tokens]` */
  readonly experts: Uint16Array;
}

/**
 * What serves a model. Text-level and plain data only, so that an engine can be in this thread, in another process
 * or on another machine.
 */
export interface Engine extends AsyncDisposable {
  readonly info: EngineInfo;
  readonly events: ReadMeEmitter;
  /**
   * The token ids of a text, or of a chat as `generate` sees it. Those of what `applyTemplate` writes can be others: as a
   * text alone, spellings of control tokens in it are control tokens, whoever wrote them. Others get their turns while a long text is worked on.
   *
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` on more than `maxTokens`
   */
  tokenize(prompt: string | ChatPrompt, options?: TokenizeOptions): Promise<Int32Array>;
  detokenize(tokenIds: ArrayLike<number>): Promise<string>;
  /** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` */
  applyTemplate(messages: readonly ChatMessage[], template?: Readonly<Record<string, unknown>>): Promise<string>;
  /** The same object at every call: do not write to it. */
  vocabulary(): Promise<EngineVocabulary>;
  /** The experts that a prompt's tokens would go to. */
  route(prompt: Prompt, expert?: string | number): Promise<RoutedPrompt>;
  /**
   * Continues a prompt. Ends the work when the iteration is left early, or `signal` is aborted (then with its reason).
   *
   * @throws {TypeError | RangeError} at once, on parameters that are wrong
   * @throws {ReadMeError} while iterating: `ERR_CONTEXT_LENGTH`, `ERR_ENGINE_FAILED`, `ERR_DISPOSED` …
   */
  generate(request: GenerateRequest): Generation;
  stats(): Promise<EngineStats>;
  /**
   * Resolves with the error when the engine has failed, at once if it has failed already. After the engine was opened
   * again, a new call waits for the next failure. Never rejects, and stays pending when the engine is disposed.
   */
  whenFailed(): Promise<ReadMeError>;
  /** Ends all work; those who wait get `ERR_DISPOSED`. */
  dispose(): Promise<void>;
}
