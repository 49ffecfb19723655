// The chunks of a request between the engine that makes them and the one who reads them, and the end of both.

import type { AcceptedPrompt, GenerateChunk, Generation } from "./generation.ts";

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
