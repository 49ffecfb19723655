import { EventEmitter } from "eventemitter3";
import type { ErrorLink } from "./errors.ts";
import type { LoadStage } from "./loading.ts";

/** One run through all layers, as the expert cache saw it. */
export interface ExpertRun {
  /** Distinct experts of its tokens, ascending. */
  readonly experts: readonly number[];
  /** Experts that were known to be needed after it. */
  readonly planned: readonly number[];
}

/** Every event of the system: its name, its payload, and the units of each field. All payloads are plain data. */
export interface ReadMeEvents {
  /** A sequence's prompt was accepted. The sequence runs when there is room. */
  "sequence:queued": (event: {
    readonly sequenceId: string;
    readonly promptTokens: number;
    /** Waiting sequences, this one included. */
    readonly numWaiting: number;
  }) => void;
  /** The router chose the experts of a sequence's tokens, before the model runs them. */
  "router:routed": (event: {
    readonly sequenceId: string;
    /** Position of the first of `experts`. */
    readonly position: number;
    /** Expert of each token. */
    readonly experts: Uint16Array;
    /** Time that the router took. */
    readonly durationMs: number;
  }) => void;
  /** The next step was planned. */
  "batch:scheduled": (event: {
    readonly step: number;
    readonly sequenceIds: readonly string[];
    /** Tokens of each sequence: 1 when it decodes, more when it is a chunk of prefill. */
    readonly numTokens: readonly number[];
    /** Position of the first of these tokens, for each sequence. */
    readonly positions: readonly number[];
    /** Draft tokens of each sequence, which run behind its own. Absent if no sequence has any. */
    readonly draftTokens?: readonly number[];
    /** Distinct experts of the step's tokens. */
    readonly distinctExperts: number;
    /** Sequences that wait for KV memory. */
    readonly numWaiting: number;
    /** Experts that the next step is certain to need, ascending. Only where experts are streamed. */
    readonly plannedExperts?: readonly number[];
    /** Steps until each expert is expected, `[numExperts]`; `Infinity` is never. Only where experts are streamed. */
    readonly laterSteps?: readonly number[];
  }) => void;
  /** A step has run. */
  "batch:completed": (event: {
    readonly step: number;
    /** Tokens that ran, those of prompts included. */
    readonly tokens: number;
    /** Tokens of prompts that ran. */
    readonly prefillTokens: number;
    /** Time that the whole step took. */
    readonly durationMs: number;
    /** Duration that was predicted when the step was planned, from the steps before. */
    readonly predictedMs: number;
    /** Part of `durationMs` in which the model ran. */
    readonly forwardMs: number;
    readonly kvUsedTokens: number;
    readonly kvCapacityTokens: number;
    /** Draft tokens of the step that became part of a completion. Absent if the step had no drafts. */
    readonly acceptedDraftTokens?: number;
    /** Runs through all layers that the step took, nearly always one. Only where experts are streamed. */
    readonly expertRuns?: readonly ExpertRun[];
  }) => void;
  /** A unit was read: one layer of one expert, or a whole lora as layer 0. */
  "expert:loaded": (event: {
    readonly layer: number;
    readonly expert: number;
    readonly bytes: number;
    /** Time of the read. */
    readonly durationMs: number;
  }) => void;
  /** A unit was evicted. `nextUse` is in steps; `Infinity` when no known token needs it. */
  "expert:evicted": (event: { readonly layer: number; readonly expert: number; readonly nextUse: number }) => void;
  /** A lora was added to the model. */
  "expert:added": (event: {
    readonly name: string;
    /** Its place in `engine.info.experts`. */
    readonly index: number;
    /** Size in memory. */
    readonly bytes: number;
    readonly durationMs: number;
  }) => void;
  /** A lora was removed from the model, after the last sequence with it had ended. */
  "expert:removed": (event: { readonly name: string; readonly index: number }) => void;
  /** A prompt is kept from now on, see `ReadMeEngine.keepPrompt`. */
  "prompt:kept": (event: {
    readonly promptTokens: number;
    /** Number of its first tokens that are kept. */
    readonly keptTokens: number;
    /** Origin of their keys and values. */
    readonly source: "memory" | "saved" | "computed";
    readonly durationMs: number;
    /** Reason why a saved file was not used: it was damaged, foreign or could not be read. */
    readonly refusal?: string | undefined;
    /** Reason why the prompt could not be saved. */
    readonly saveFailure?: string | undefined;
  }) => void;
  /** The beginning of a prompt could not be written to disk. No others are written for a minute. */
  "prefix:save-failed": (event: { readonly reason: string }) => void;
  /** A sequence got its next token. */
  "token:generated": (event: {
    readonly sequenceId: string;
    readonly tokenId: number;
    /** Position in the sequence, prompt included. */
    readonly position: number;
    /** Time since the sequence was queued, for its first token; since its previous token, for later ones. */
    readonly sinceMs: number;
    /** Whether it is the completion's first token. */
    readonly isFirst: boolean;
  }) => void;
  /** A running sequence lost its KV memory to other sequences. It is recomputed when there is room. */
  "sequence:preempted": (event: {
    readonly sequenceId: string;
    /** Tokens whose keys and values are lost. */
    readonly tokens: number;
  }) => void;
  /** A sequence ended. */
  "sequence:finished": (event: {
    readonly sequenceId: string;
    readonly reason: "stop" | "length" | "abort" | "error";
    readonly promptTokens: number;
    readonly completionTokens: number;
    /** Prompt tokens whose keys and values came from the prefix cache. */
    readonly cachedTokens: number;
    /** Drafted tokens that became part of the completion. */
    readonly acceptedDraftTokens: number;
    /** Drafted tokens that ran and did not. */
    readonly rejectedDraftTokens: number;
    /** Time from queued to its first step. */
    readonly queuedMs: number;
    /** Time from queued to finished. */
    readonly durationMs: number;
  }) => void;
  /** New requests for the model `name` go to another engine from now on. Running requests keep their engine. */
  "model:swapped": (event: {
    readonly name: string;
    /** Path of the new model. */
    readonly path: string;
    /** Path of the previous model, if there was one. */
    readonly previousPath: string | undefined;
  }) => void;
  /** An engine that had failed works again. */
  "engine:restarted": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Attempts to open it again, the last one included. */
    readonly attempts: number;
  }) => void;
  /** A lora could not be loaded again after its engine had failed. Requests cannot name it any more. */
  "expert:lost": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Name of the expert. */
    readonly expert: string;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** An attempt to open a failed engine again has failed. */
  "engine:restart-failed": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Attempts without success so far, this one included. */
    readonly attempts: number;
    /** Wait until the next attempt; `undefined` if none follows. */
    readonly retryInMs: number | undefined;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** A model could not be opened, or failed, and is not opened again. It stays so until another engine is set. */
  "engine:given-up": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Attempts to open it again; 0 where restarts are off. */
    readonly attempts: number;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** An engine runs, and has failed so many requests in a row that it counts as not ready. */
  "engine:failing": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Failed requests in a row, each begun after the one before had failed. */
    readonly failures: number;
    /** Whether the engine is killed now, to be opened again. */
    readonly isReopened: boolean;
    /** The last error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** An engine has not answered for so long that it counts as hung. */
  "engine:hung": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Time for which its answer is overdue. */
    readonly overdueMs: number;
  }) => void;
  /** An engine that counted as failing or hung has answered. */
  "engine:recovered": (event: {
    /** Name of the model. */
    readonly name: string;
    /** Its state before. */
    readonly from: "failing" | "hung";
  }) => void;
  /** A server opens a model. */
  "model:loading": (event: {
    readonly name: string;
    readonly stage: LoadStage;
    /** Bytes of this stage that are done. */
    readonly doneBytes: number;
    /** All bytes of this stage; 0 where they are unknown. */
    readonly ofBytes: number;
    /** Rate of the last seconds, once it is known. */
    readonly bytesPerSecond: number | undefined;
    /** Time left of this stage at that rate. */
    readonly secondsLeft: number | undefined;
  }) => void;
  /** A server opened a model that a request had asked for. */
  "model:opened": (event: { readonly name: string; readonly durationMs: number }) => void;
  /** A server closed a model: no request had come for a while, or another model needed its memory. */
  "model:closed": (event: { readonly name: string }) => void;
  /** A model that a request had asked for could not be opened, or its engine has failed. A later request opens it. */
  "model:open-failed": (event: {
    readonly name: string;
    /** Time until a request may open it again. */
    readonly retryInMs: number;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** A server admitted a request and reserved a place for it. */
  "request:admitted": (event: {
    /** Name of the model, if it is known. */
    readonly model: string | undefined;
    /** Name of the client's key, on servers with keys. */
    readonly key: string | undefined;
    /** Size of its body. */
    readonly bytes: number;
    /** Completions that it asks for, over all prompts. */
    readonly choices: number;
    /** Largest number of tokens of each. */
    readonly maxCompletionTokens: number;
    /** Name of the expert that the request asks for, if it names one. */
    readonly expert?: string | undefined;
    /** Whether some clients must not see the expert's name. @default false */
    readonly isExpertPrivate?: boolean | undefined;
  }) => void;
  /** A server rejected a request: no place was free, its key or client has too many, or it waited too long. */
  "request:rejected": (event: {
    readonly model: string | undefined;
    readonly key: string | undefined;
    readonly reason: "requests" | "tokens" | "bytes" | "key" | "share" | "displaced" | "queue-deadline";
    /** Wait that the client was told. */
    readonly retryAfterMs: number;
  }) => void;
  /** A server counted a rate limit for itself, since the counts that it shares with others could not be read. */
  "limit:local": (event: { readonly unit: "requests" | "tokens" }) => void;
  /** The first token of a request's answer was generated; `sinceMs` is the time since the request was admitted. */
  "request:started": (event: { readonly model: string | undefined; readonly sinceMs: number }) => void;
  /** A request released its place. */
  "request:released": (event: {
    readonly model: string | undefined;
    /** Whether it got a first token. */
    readonly isStarted: boolean;
    /** Time since it was admitted. */
    readonly durationMs: number;
  }) => void;
  /** An answer was sent, or its client had disconnected (status 499). */
  "request:answered": (event: {
    readonly requestId: string;
    readonly traceparent: string | undefined;
    readonly key: string | undefined;
    readonly method: string;
    /** Pattern of the route, such as `/v1/chat/completions`. */
    readonly handler: string;
    readonly status: number;
    readonly durationMs: number;
  }) => void;
  /** A request ended with an error of the server or the engine, and not of its client. */
  "request:failed": (event: {
    readonly requestId: string;
    /** Name of the model, if one was chosen. */
    readonly model: string | undefined;
    /** Status that the client got, or would have got if its stream had not begun. */
    readonly status: number;
    /** The error and its causes, outermost first. */
    readonly causes: readonly ErrorLink[];
  }) => void;
  /** A worker of a fleet ended its part of a request: it answered, or another worker goes on. */
  "job:ended": (event: {
    readonly requestId: string;
    readonly workerId: string;
    /** Trace and span of the caller, as its front passed them on. */
    readonly traceparent: string | undefined;
    /** "released": handed to another worker. "foreign": taken by another worker, since this one was silent. */
    readonly end: "answered" | "cancelled" | "released" | "foreign" | "different";
    /** Whether another worker had begun the answer. */
    readonly isResumed: boolean;
    readonly promptTokens: number;
    /** Tokens that this worker generated. */
    readonly completionTokens: number;
    /** Time that the request waited until the first worker took it; `undefined` at later workers. */
    readonly queuedMs: number | undefined;
    /** Time from when this worker took it to the first token here; `undefined` without a token. */
    readonly prefillMs: number | undefined;
    /** Time from when this worker took it. */
    readonly durationMs: number;
  }) => void;
  /** A model was opened: the build of the kernel that runs its steps, and its instructions. */
  "kernel:selected": (event: KernelInfo) => void;
  /** The engine stopped working. All requests and calls under way have failed. */
  "engine:failed": (event: {
    readonly code: string;
    readonly message: string;
    /** The error and its causes, outermost first, if they are known. */
    readonly causes?: readonly ErrorLink[];
  }) => void;
  /** A listener of another event threw, or its promise was rejected. */
  "listener:failed": (event: { readonly source: keyof ReadMeEvents; readonly error: unknown }) => void;
}

type Listener = (...args: never[]) => unknown;

/**
 * Bus of the events of an engine or a server. Events only observe: a listener that throws, or whose promise is
 * rejected, affects neither the emitter nor later listeners, and is reported by `listener:failed`.
 */
export class ReadMeEmitter extends EventEmitter<ReadMeEvents> {
  readonly #contained = new WeakMap<Listener, Map<keyof ReadMeEvents, Listener>>();
  /** Wrappers, which `once` passes back to `off`. */
  readonly #wrappers = new WeakSet<Listener>();
  #onInterest: (() => void) | undefined;

  static {
    // The base class gives these names to its own methods.
    // oxlint-disable-next-line typescript/unbound-method -- they stay methods
    Object.assign(this.prototype, { addListener: this.prototype.on, removeListener: this.prototype.off });
  }

  /**
   * Sets the function that is called after listeners were added or removed. A remote sender can then send only events
   * that have listeners.
   */
  watchInterest(onInterest: () => void): void {
    this.#onInterest = onInterest;
  }

  override on<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    super.on(name, this.#contain(name, listener), context);
    this.#onInterest?.();
    return this;
  }

  override once<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    super.once(name, this.#contain(name, listener), context);
    this.#onInterest?.();
    return this;
  }

  override off<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener?: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
    once?: boolean,
  ): this {
    super.off(name, listener && this.#contain(name, listener), context, once);
    this.#onInterest?.();
    return this;
  }

  override removeAllListeners(name?: EventEmitter.EventNames<ReadMeEvents>): this {
    super.removeAllListeners(name);
    this.#onInterest?.();
    return this;
  }

  /** Wraps a listener. The same listener gets the same wrapper, so that it can be removed. */
  #contain<Function extends Listener>(name: keyof ReadMeEvents, listener: Function): Function {
    if (this.#wrappers.has(listener)) return listener;
    const byName = this.#contained.get(listener) ?? new Map<keyof ReadMeEvents, Listener>();
    this.#contained.set(listener, byName);
    const known = byName.get(name);
    if (known) return known as Function;
    const failed = (error: unknown): void => {
      // A failing listener of `listener:failed` must not call itself.
      if (name !== "listener:failed") this.emit("listener:failed", { source: name, error });
    };
    const contained = function (this: unknown, ...args: never[]): void {
      try {
        const result = listener.apply(this, args);
        if (result instanceof Promise) result.catch(failed);
      } catch (error) {
        failed(error);
      }
    };
    byName.set(name, contained);
    this.#wrappers.add(contained);
    return contained as Function;
  }
}

/** Build of the kernel that runs a model's steps. */
export interface KernelInfo {
  /** An addon of this platform, or WebAssembly. */
  readonly kind: "native" | "wasm";
  /** Instruction set that its loops use, such as "avx512-vnni" or "wasm-simd". */
  readonly instructions: string;
  readonly threads: number;
  /** Reason why it is WebAssembly, unless it was chosen. */
  readonly fallbackReason?: string | undefined;
}
