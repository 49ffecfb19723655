import type { AcceptedPrompt, GenerateChunk, Generation } from "@readme-moe/core";

/** The chunks of one request, for one reader; they wait here until they are read. */
export class ChunkStream implements Generation {
  readonly accepted: Promise<AcceptedPrompt>;
  readonly #onLeft: () => void;
  readonly #chunks: GenerateChunk[] = [];
  #end: { readonly error?: unknown } | undefined;
  readonly #waiting: (() => void)[] = [];
  #accept!: (prompt: AcceptedPrompt) => void;
  #refuse!: (error: unknown) => void;

  /** @param onLeft - called when the reader leaves before the end */
  constructor(onLeft: () => void) {
    this.#onLeft = onLeft;
    this.accepted = new Promise((resolve, reject) => ([this.#accept, this.#refuse] = [resolve, reject]));
    // Most readers look at the chunks alone.
    this.accepted.catch(() => undefined);
  }

  accept(prompt: AcceptedPrompt): void {
    this.#accept(prompt);
  }

  push(chunk: GenerateChunk): void {
    if (this.#end) return;
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** Nothing comes after this; chunks that were not read yet still are. */
  end(): void {
    this.#end ??= {};
    this.#wake();
  }

  /** Chunks that were not read yet are dropped: the reader learns of the failure first. */
  fail(error: unknown): void {
    if (this.#end) return;
    this.#chunks.length = 0;
    this.#end = { error };
    this.#refuse(error);
    this.#wake();
  }

  async next(): Promise<IteratorResult<GenerateChunk, undefined>> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk) return { done: false, value: chunk };
      if (this.#end) {
        const end = this.#end;
        this.#end = {};
        // What a caller's function throws may be `undefined`.
        if ("error" in end) throw end.error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  async return(): Promise<IteratorResult<GenerateChunk, undefined>> {
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
