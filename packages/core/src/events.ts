import { EventEmitter } from "eventemitter3";

/** Every event of the system: its name, its payload, and the units of each field. All payloads are plain data. */
export interface ReadMeEvents {
  /** A sequence was taken in; it runs when there is room. */
  "sequence:queued": (event: {
    readonly sequenceId: string;
    readonly promptTokens: number;
    /** Sequences that wait, this one included. */
    readonly numWaiting: number;
  }) => void;
  /** The router chose the experts of a sequence's tokens, before the model runs them. */
  "router:routed": (event: {
    readonly sequenceId: string;
    /** Position of the first of `experts`. */
    readonly position: number;
    readonly experts: Uint16Array;
    readonly durationMs: number;
  }) => void;
  /** The next step was planned. */
  "batch:scheduled": (event: {
    readonly step: number;
    readonly sequenceIds: readonly string[];
    /** Of each sequence: 1 when it decodes, more when it is a chunk of prefill. */
    readonly numTokens: readonly number[];
    readonly distinctExperts: number;
    readonly numWaiting: number;
  }) => void;
  /** A step has run. */
  "batch:completed": (event: {
    readonly step: number;
    readonly tokens: number;
    readonly prefillTokens: number;
    readonly durationMs: number;
    /** What `durationMs` was expected to be when the step was planned; learnt from the steps before. */
    readonly predictedMs: number;
    /** Of `durationMs`, the graph. */
    readonly forwardMs: number;
    readonly kvUsedTokens: number;
    readonly kvCapacityTokens: number;
  }) => void;
  /** One layer of one expert came into memory. */
  "expert:loaded": (event: {
    readonly layer: number;
    readonly expert: number;
    readonly bytes: number;
    readonly durationMs: number;
  }) => void;
  /** One layer of one expert left memory. `nextUse` is in steps; `Infinity` when no known token needs it. */
  "expert:evicted": (event: { readonly layer: number; readonly expert: number; readonly nextUse: number }) => void;
  /** A sequence got its next token. */
  "token:generated": (event: {
    readonly sequenceId: string;
    readonly tokenId: number;
    /** In the sequence, prompt included. */
    readonly position: number;
    /** Since the sequence was queued, for the first token; since its last token, for the others. */
    readonly sinceMs: number;
    readonly isFirst: boolean;
  }) => void;
  /** A running sequence gave its KV memory to others; it is recomputed when there is room. */
  "sequence:preempted": (event: { readonly sequenceId: string; readonly tokens: number }) => void;
  /** A sequence left. */
  "sequence:finished": (event: {
    readonly sequenceId: string;
    readonly reason: "stop" | "length" | "abort" | "error";
    readonly promptTokens: number;
    readonly completionTokens: number;
    /** Prompt tokens whose keys and values were taken from the prefix cache. */
    readonly cachedTokens: number;
    readonly queuedMs: number;
    /** From queued to finished. */
    readonly durationMs: number;
  }) => void;
  /** The engine serves another model from now on. */
  "model:swapped": (event: { readonly path: string }) => void;
  /** The engine stopped working; everybody who waited was told. */
  "engine:failed": (event: { readonly code: string; readonly message: string }) => void;
  /** A listener of another event threw, or its promise was rejected. */
  "listener:failed": (event: { readonly source: keyof ReadMeEvents; readonly error: unknown }) => void;
}

type Listener = (...args: never[]) => unknown;

/**
 * The bus that all parts of one engine share. Events observe: a listener that throws, or whose promise is rejected,
 * hurts neither the emitter nor the listeners after it, and is told to `listener:failed`.
 */
export class ReadMeEmitter extends EventEmitter<ReadMeEvents> {
  readonly #contained = new WeakMap<Listener, Map<keyof ReadMeEvents, Listener>>();
  /** `once` removes what it was given, which is contained already. */
  readonly #wrappers = new WeakSet<Listener>();

  override on<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    return super.on(name, this.#contain(name, listener), context);
  }

  override once<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    return super.once(name, this.#contain(name, listener), context);
  }

  override addListener<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
  ): this {
    return this.on(name, listener, context);
  }

  override off<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener?: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
    once?: boolean,
  ): this {
    return super.off(name, listener && this.#contain(name, listener), context, once);
  }

  override removeListener<Name extends EventEmitter.EventNames<ReadMeEvents>>(
    name: Name,
    listener?: EventEmitter.EventListener<ReadMeEvents, Name>,
    context?: unknown,
    once?: boolean,
  ): this {
    return this.off(name, listener, context, once);
  }

  /** The same wrapper for the same listener, so that it can be removed. */
  #contain<Function extends Listener>(name: keyof ReadMeEvents, listener: Function): Function {
    if (this.#wrappers.has(listener)) return listener;
    const byName = this.#contained.get(listener) ?? new Map<keyof ReadMeEvents, Listener>();
    this.#contained.set(listener, byName);
    const known = byName.get(name);
    if (known) return known as Function;
    const failed = (error: unknown): void => {
      // A failing listener of failures has nobody left to tell.
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
