import type { AnswerFormat } from "./answer-format.ts";
import type { ReadMeError } from "./errors.ts";
import type { ExpertRun, KernelInfo, ReadMeEmitter } from "./events.ts";
import type { ExpertCacheCounters } from "./expert-cache/expert-cache.ts";
import type { UpcomingUses } from "./expert-cache/next-step.ts";
import type {
  ChatMessage,
  FollowRequest,
  Generation,
  PromptProgress,
  RoutedPrompt,
  TokenizeOptions,
} from "./generation.ts";
import type {
  ClassificationInfo,
  Classifications,
  ClassifyRequest,
  EmbeddingInfo,
  Embeddings,
  EmbedRequest,
  ModelTask,
  Ranking,
  RerankRequest,
} from "./pooling.ts";
import type { ProcessLogits } from "./process-logits.ts";
import type { SamplingDefaults, SamplingParams } from "./sampling/sampling-params.ts";
import type { CostModel } from "./scheduling/cost-model.ts";
import type { DraftSource } from "./speculation/plan-drafts.ts";
import type { ReasoningForm, ToolCallForm } from "./answer-forms.ts";

/** A chat, which the model's template converts to a text. */
export interface ChatPrompt {
  readonly messages: readonly ChatMessage[];
  /** Variables of the template, such as `addGenerationPrompt`, `tools` and `documents`. */
  readonly template?: Readonly<Record<string, unknown>> | undefined;
}

/** A text with a gap, which the completion fills. For models whose `EngineInfo.fillIn` is present. */
export interface FillInPrompt {
  /** Text before the gap. */
  readonly prefix: string;
  /** Text behind the gap. */
  readonly suffix: string;
  /**
   * Other files that the model sees before, the most relevant last. Where the prompt would have more than three
   * quarters of the context, the first ones are left out.
   *
   * @default none
   */
  readonly files?: readonly { readonly name: string; readonly text: string }[] | undefined;
  /** Name of the files' repository. @default "project" */
  readonly repository?: string | undefined;
}

/**
 * A prompt: a text, token ids, a chat, or a text with a gap. Spellings of control tokens, such as `<|im_end|>`, are
 * control tokens in a text. In the strings of a chat they are text, unless the engine's option
 * `controlTokensInMessages` says otherwise, and in those of a text with a gap always.
 */
export type Prompt = string | ArrayLike<number> | ChatPrompt | FillInPrompt;

/** Beginning of a generation that has been computed before, by any engine with the same `EngineInfo.modelVersion`. */
export interface ResumedGeneration {
  /** Tokens of each choice so far, end tokens included, `[n]` lists of at most `maxTokens`; a list may be empty. */
  readonly choices: readonly ArrayLike<number>[];
}

/** A request of `Engine.generate`: one prompt, and parameters of its completions. */
export interface GenerateRequest {
  /** A text, token ids, a chat `{ messages, template }`, or a text with a gap `{ prefix, suffix, files }`. */
  readonly prompt: Prompt;
  /** Sampling parameters. What they leave out is the model's (`EngineInfo.samplingDefaults`), else the default. */
  readonly params?: SamplingParams | undefined;
  /**
   * Changes logits before a token is chosen. Called in the caller's thread, once for each new token of each choice,
   * with the model's own logits. Bias, penalties, temperature and the rest of `params` apply to the changed logits,
   * while log-probabilities are those of the model. `-Infinity` forbids a token. A function with the property
   * `allowTokens` is not called: the property is, and gives the same tokens at less cost.
   *
   * A choice keeps its place and its KV memory while it waits for the answer; other choices and requests go on. An
   * error of the function ends the request and is thrown while iterating, as are a `TypeError` on a value that is no
   * `Float32Array`, and a `RangeError` on another length, NaN, `Infinity`, or when no token is left. The same holds for
   * `allowTokens` and its masks.
   *
   * @default none
   */
  readonly processLogits?: ProcessLogits | undefined;
  /**
   * Form that the answers are bound to: JSON, a JSON schema, a pattern, a choice of texts, or a grammar. Not beside
   * `processLogits`. An answer that is cut short by `maxTokens` is the beginning of one. What is wrong in a schema, a
   * pattern or a grammar is thrown while iterating.
   *
   * @default answers are free
   */
  readonly format?: AnswerFormat | undefined;
  /**
   * A text, or token ids, that the completion is expected to repeat, such as a file that it edits. The engine tries its
   * tokens where they may follow, which takes less time where it is right and never changes the completion. At most as
   * many tokens as the context has; they do not count as the prompt's.
   *
   * @default none
   */
  readonly prediction?: string | ArrayLike<number> | undefined;
  /**
   * Goes on after tokens that have been generated before, as if this engine had generated them: what follows has the
   * same tokens, log-probabilities, texts and finish reasons. The chunks are those that follow; text that was held back
   * before comes with the next of them. A choice that has ended before gives one chunk without tokens. `usage` counts
   * the completion's tokens from its beginning, and of everything else what this engine did.
   *
   * Needs `seed` if `temperature` is above 0. The caller's mistakes throw as those in `params` do, except for tokens
   * behind a stop string or the end of the context: these reject the iteration with a `RangeError`.
   *
   * @default none
   */
  readonly resume?: ResumedGeneration | undefined;
  /** Expert of every token, by name or index, instead of the engine's router. */
  readonly expert?: string | number | undefined;
  /** Waiting sequences with larger numbers go first. @default 0 */
  readonly priority?: number | undefined;
  /**
   * Name of the client. Clients share time and places evenly, however many requests each of them has.
   * @default no name: requests without a name count as one client's
   */
  readonly client?: string | undefined;
  /**
   * Any text that keeps what the engine caches apart: a request gets cached prompts, and drafts from earlier answers,
   * of requests with the same salt only, so that neither times nor counts tell what others' requests contain. Prompts
   * of `keepPrompt` are for all.
   *
   * @default none: requests without a salt share with one another
   */
  readonly cacheSalt?: string | undefined;
  /**
   * Trace and span of the caller, a `traceparent` of W3C's Trace Context. A fleet of machines passes it on, so that the
   * machine that answers can add its spans to the trace.
   *
   * @default none
   */
  readonly traceparent?: string | undefined;
  /**
   * Called when the first step begins to read a prompt that takes several steps, and then at most five times per
   * second. Not every engine calls it. An error of the function ends the request.
   * @default none
   */
  readonly onProgress?: ((progress: PromptProgress) => void) | undefined;
  /** Id of the request in events. @default an id that the engine makes */
  readonly id?: string | undefined;
  /** Ends the request and frees its memory before the next step. The iteration throws its reason. @default none */
  readonly signal?: AbortSignal | undefined;
}

/** Marks of a model to fill a gap in a text. */
export interface FillInInfo {
  /** Family whose marks the model has, such as `qwen2.5-coder`. */
  readonly family: string;
  /** Mark before the text that a gap follows: a text or token ids that have it are a prompt with a gap, too. */
  readonly prefix: { readonly id: number; readonly text: string };
  /** Tokens that end what fills a gap, beside those that end other completions. */
  readonly endTokenIds: readonly number[];
}

/** Description of an engine and its model. Only `experts` changes while the engine is open. */
export interface EngineInfo {
  /** Name under which servers offer the model: the one that it was opened by. @default from `path` */
  readonly name?: string | undefined;
  /** Folder or file of the model. */
  readonly path: string;
  /** Family of the model: `model_type` of its config. */
  readonly modelType: string;
  /** Precision of the weights. */
  readonly precision: string;
  /** Task that the model was made for; the methods of other tasks refuse it. */
  readonly task: ModelTask;
  /** Embeddings that the model gives; `undefined` for other models. */
  readonly embedding?: EmbeddingInfo | undefined;
  /** Labels of texts or tokens; `undefined` for other models. One label of a text is a score, as of `"rerank"`. */
  readonly classification?: ClassificationInfo | undefined;
  /** Token that stands for a missing one, which a head of the model fills. @default it has no such head */
  readonly mask?: { readonly token: string; readonly tokenId: number } | undefined;
  /** Number of segments of an encoder, of which `SegmentedIds` may name all. @default 1 */
  readonly numSegments?: number | undefined;
  /** Number of tokens in the vocabulary. */
  readonly vocabSize: number;
  /** Largest number of tokens of a sequence, prompt and completion together. */
  readonly contextTokens: number;
  /**
   * Name of each expert. A dense model has one; with loras it has "none", the model without a change, and
   * theirs. The name of a removed one is empty.
   */
  readonly experts: readonly string[];
  /** Kind of the experts: loras, which a dense model can have, or cut into the FFNs. */
  readonly expertKind: "lora" | "ffn";
  /** Folder of the head that drafts tokens, or the model's files whose own layer does. @default the model has none */
  readonly draftHead?: string | undefined;
  /** Whether a router chooses experts for requests that name none. */
  readonly hasRouter: boolean;
  /** Whether prompts may be chats. */
  readonly hasChatTemplate: boolean;
  /** Whether its chat template uses `tools`. */
  readonly chatTemplateKnowsTools: boolean;
  /** Form in which the model writes calls of tools, as its chat template shows it. @default the template shows none */
  readonly toolCallForm?: ToolCallForm | undefined;
  /**
   * Form in which answers may begin with reasoning, such as that between `<think>` and `</think>`: the chat template or
   * the vocabulary has its marks. @default answers have no reasoning
   */
  readonly reasoningForm?: ReasoningForm | undefined;
  /** Marks of the model to fill a gap in a text. @default none: the model has no such marks */
  readonly fillIn?: FillInInfo | undefined;
  /** Tokens that end a completion. */
  readonly eosTokenIds: readonly number[];
  /**
   * Sampling parameters that the model's files recommend. `generate` uses them where a request leaves a parameter out.
   * @default none
   */
  readonly samplingDefaults?: SamplingDefaults | undefined;
  /** Largest number of sequences that hold KV memory. */
  readonly maxNumSeqs: number;
  /** Number of tokens whose keys and values fit into KV memory, without the prefix cache. */
  readonly kvCapacityTokens: number;
  /** Size of the packed weights, in bytes, whether they are in memory or not. */
  readonly weightBytes?: number | undefined;
  /** Plan of the engine's memory. */
  readonly memory?: EngineMemory | undefined;
  /** Kernel that runs the steps. */
  readonly kernel?: KernelInfo | undefined;
  /**
   * Hash, in hex, of what turns a prompt into tokens and experts: config, tokenizer, chat template and router. Equal
   * ones give the same tokens and experts.
   */
  readonly promptVersion?: string | undefined;
  /**
   * Hash, in hex, of all that a token's logits depend on: `promptVersion`, weights, precisions and context. Equal ones
   * give the same logits, bit for bit, so that one engine can go on with what another one has generated.
   */
  readonly modelVersion?: string | undefined;
}

/** Memory of an engine, planned when it is opened; keys and values grow up to their sizes while they are used. */
export interface EngineMemory {
  /** Weights that are in memory, with a draft head's and its keys and values. */
  readonly weightBytes: number;
  /** Process, tokenizer and the values of the largest step, estimated. */
  readonly processBytes: number;
  /** Keys and values of running sequences. */
  readonly kvCacheBytes: number;
  /** Keys and values of prompts' beginnings that are kept beside them. */
  readonly prefixCacheBytes: number;
  /** Largest size of prompts' beginnings on disk. @default none are kept there */
  readonly prefixDiskBytes?: number | undefined;
  /** Number type of keys and values. */
  readonly kvPrecision: string;
  /** Context of the model itself; the engine's may be shorter. */
  readonly modelContextTokens: number;
  /** Bound of the engine's context: the model, memory, an option, or the usual length of a longer model's context. */
  readonly contextBound: "model" | "memory" | "option" | "usual";
  /** Memory that the process could take when it began to open the model. @default unknown */
  readonly freeBytes?: number | undefined;
}

/**
 * Serves a model. Its methods use texts and plain data only, so that an engine can be in this thread, in another
 * process or on another machine.
 */
export interface Engine extends AsyncDisposable {
  readonly info: EngineInfo;
  readonly events: ReadMeEmitter;
  /** Error that all requests get at this time although the engine works, such as `ERR_NO_WORKER`. @default none */
  readonly unavailable?: ReadMeError | undefined;
  /**
   * Tokenizes a text, or a chat or a text with a gap as `generate` does. The result of `applyTemplate` may have other
   * tokens, since all spellings of control tokens in a text are control tokens. Long texts are tokenized between steps
   * of the engine.
   *
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` on more than `maxTokens`
   */
  tokenize(prompt: string | ChatPrompt | FillInPrompt, options?: TokenizeOptions): Promise<Int32Array>;
  detokenize(tokenIds: ArrayLike<number>): Promise<string>;
  /** @throws {ReadMeError} `ERR_CHAT_TEMPLATE` */
  applyTemplate(messages: readonly ChatMessage[], template?: Readonly<Record<string, unknown>>): Promise<string>;
  /** Returns the same object at every call; do not write to it. */
  vocabulary(): Promise<EngineVocabulary>;
  /** Computes the experts of a prompt's tokens, without running the model. */
  route(prompt: Prompt, expert?: string | number): Promise<RoutedPrompt>;
  /**
   * Continues a prompt. Ends the work when the iteration is left early, or when `signal` aborts (with its reason).
   *
   * @throws {TypeError | RangeError} at once, on wrong parameters
   * @throws {ReadMeError} while iterating: `ERR_CONTEXT_LENGTH`, `ERR_ENGINE_FAILED`, `ERR_DISPOSED` …
   */
  generate(request: GenerateRequest): Generation;
  /**
   * Follows an answer from its beginning, where the engine keeps answers for others of its kind. The earlier reader
   * gets `ERR_TAKEN_OVER`. Leaving the iteration, or `signal`, ends the work, as of `generate`. `accepted` has no
   * experts.
   *
   * @returns nothing for an answer that is not kept, was cancelled, or is another client's
   * @throws {ReadMeError} as `generate`
   */
  follow?(request: FollowRequest): Promise<Generation | undefined>;
  /**
   * Computes embeddings. Texts run in the same steps as other requests; which others run changes no bit.
   *
   * @throws {TypeError | RangeError} on wrong parameters, and if the model was not made for embeddings
   * @throws {ReadMeError} as `generate`; `ERR_CONTEXT_LENGTH` for more tokens than the context has
   */
  embed(request: EmbedRequest): Promise<Embeddings>;
  /**
   * Scores documents by their relevance for a query. What the prompts of documents begin with runs once.
   *
   * @throws as `embed`
   */
  rerank(request: RerankRequest): Promise<Ranking>;
  /**
   * Computes logits and probabilities of labels, of texts or of their tokens.
   *
   * @throws as `embed`
   */
  classify(request: ClassifyRequest): Promise<Classifications>;
  /**
   * Adds a lora, a LoRA adapter in PEFT's layout, to a dense model while it runs. Running requests go on.
   *
   * @param path - folder of the adapter, where the engine runs
   * @throws {TypeError | RangeError} on a wrong name, a name that is taken, or if `expertCacheBytes` is too small
   * @throws {ReadMeError} if the adapter cannot be read, or does not fit the model
   */
  addExpert(name: string, path: string): Promise<void>;
  /**
   * Removes a lora. New requests are refused at once; resolves when the last running request with it has
   * ended.
   * @throws {RangeError} on an unknown expert
   */
  removeExpert(name: string): Promise<void>;
  stats(): Promise<EngineStats>;
  /**
   * Resolves with the error when the engine has failed, at once if it has failed already. After the engine was opened
   * again, a new call waits for the next failure. Never rejects, and stays pending when the engine is disposed.
   */
  whenFailed(): Promise<ReadMeError>;
  /** Ends all work; requests and calls under way fail with `ERR_DISPOSED`. */
  dispose(): Promise<void>;
}

// Numbers that an engine keeps of itself.

/** Numbers of draft tokens. */
export interface DraftCounts {
  /** Draft tokens that ran through the model. */
  readonly draftedTokens: number;
  /** Draft tokens that became part of a completion. */
  readonly acceptedDraftTokens: number;
}

/** Numbers of draft tokens of each source that has drafted any. */
export type DraftsBySource = Readonly<Partial<Record<DraftSource, DraftCounts>>>;

/** Counters since the engine was opened, and its current load. */
export interface EngineStats extends DraftCounts {
  /** Sequences that wait for KV memory. */
  readonly numWaiting: number;
  /** Sequences that hold KV memory. */
  readonly numRunning: number;
  /** Tokens whose keys and values running sequences hold. */
  readonly kvUsedTokens: number;
  /** Number of tokens whose keys and values fit into KV memory. */
  readonly kvCapacityTokens: number;
  /** Steps that have run. */
  readonly steps: number;
  /** Tokens of accepted prompts. */
  readonly promptTokens: number;
  /** Prompt tokens whose keys and values came from the prefix cache. */
  readonly cachedTokens: number;
  /** Cached tokens that were read from disk. Absent where none are kept there. */
  readonly diskTokens?: number;
  /** Generated tokens. */
  readonly completionTokens: number;
  /** Draft tokens by their source, if the engine knows it. Sources that have drafted nothing are absent. */
  readonly draftsBySource?: DraftsBySource;
  /** Times that a running sequence lost its KV memory to others. */
  readonly preemptions: number;
  /** Resident memory of the process that runs the model, which is the caller's for a thread. */
  readonly residentBytes: number;
  /** Coefficients of a step's predicted time, as far as they are learned. Absent if the engine runs no steps itself. */
  readonly cost?: CostModel;
  /** Absent when all experts are in memory. */
  readonly expertCache?: ExpertCacheStats;
  /** Bytes of each expert that are not in memory. Absent when all are, and for a router in every layer. */
  readonly missingBytes?: readonly number[];
}

/** Statistics of streamed experts. A unit is one layer of one expert. */
export interface ExpertCacheStats extends ExpertCacheCounters {
  /** Bytes of one expert in each layer; of loras, those of the largest one as a single layer. */
  readonly layerBytes: readonly number[];
  /** Limit of the bytes of units in memory. */
  readonly budgetBytes: number;
  /** Bytes of units in memory, reads under way included. */
  readonly usedBytes: number;
  /** Reads that failed, retries included. */
  readonly failedReads: number;
  /** Time that steps waited for reads. */
  readonly stallMs: number;
}

/** Bytes of a model's tokens, for binding answers to a grammar. */
export interface EngineVocabulary {
  /** Number of logits. */
  readonly vocabSize: number;
  /** Bytes of all tokens, one after the other; often parts of UTF-8 characters. */
  readonly bytes: Uint8Array;
  /**
   * `[vocabSize + 1]`: token `id` has the bytes from `offsets[id]` up to `offsets[id + 1]`. Control tokens, and ids
   * without a token, have no bytes.
   */
  readonly offsets: Uint32Array;
  /** Tokens that end a completion. */
  readonly eosTokenIds: readonly number[];
}

// Residency: the experts whose weights are in memory.

/** Experts that are in memory. The engine reads this once per step, before the step is scheduled. */
export interface Residency {
  /** Bytes of each expert that are not in memory, by expert; experts beyond the end are in memory. */
  readonly missingBytes: ArrayLike<number>;
  /** Present if experts are streamed: read from a file when they are needed. */
  readonly streamed?: StreamedResidency | undefined;
}

/** The streamed experts of a runner. */
export interface StreamedResidency {
  readonly numExperts: number;
  /** Statistics since the runner opened. */
  readonly stats: ExpertCacheStats;
  /** Experts with units that were read ahead and have not run yet. */
  readonly prefetchedExperts: Iterable<number>;
  /** Announces the uses that follow the step that runs now. */
  prepare(upcoming: UpcomingUses): void;
  /** Runs steps that are not counted, reported or remembered. Must not overlap with other steps. */
  rehearse<Result>(work: () => Promise<Result>): Promise<Result>;
  /** Returns the runs that have ended since the last call. */
  takeRuns(): readonly ExpertRun[];
  /**
   * Changes the limit at once, or after the layer that runs. Resolves when the limit holds.
   * @throws {RangeError} if one layer of all experts does not fit
   */
  setBudget(budgetBytes: number): Promise<void>;
}

/** All experts are in memory. */
export const everythingResident: Residency = { missingBytes: [] };

/** Facts about a model that are known without its weights. */
export type PromptInfo = Omit<
  EngineInfo,
  "precision" | "maxNumSeqs" | "kvCapacityTokens" | "kernel" | "promptVersion" | "modelVersion"
> & { readonly promptVersion: string };

/**
 * Turns prompts of a model into tokens and experts, and tokens into text, without the model's weights. Its methods are
 * those of `Engine`.
 */
export interface PromptReader
  extends Pick<Engine, "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route">, AsyncDisposable {
  readonly info: PromptInfo;
  /** Ends all work; calls under way fail with `ERR_DISPOSED`. */
  dispose(): Promise<void>;
}
