// Compilations that clients wait for, and refused grammars.

import type { KeyedSource } from "../grammar-source.ts";
import type { GrammarThread } from "./grammar-thread.ts";

/** A call that waits for a compilation. */
export interface Waiter {
  readonly client: string;
  readonly succeed: (thread: GrammarThread) => void;
  readonly fail: (error: unknown) => void;
}

/** A compilation that calls wait for. */
export interface Wanted extends KeyedSource {
  readonly waiters: Set<Waiter>;
  isLong: boolean;
  run: Run | undefined;
}

/** A thread that compiles. */
export interface Run {
  readonly key: string;
  readonly thread: GrammarThread;
  readonly startedMs: number;
  isLong: boolean;
  /** `undefined` once the compilation was abandoned and its thread is ending. */
  wanted: Wanted | undefined;
}

/** Lists the clients that wait for a compilation, each once. */
export function clientsOf({ waiters }: Wanted): readonly string[] {
  return [...new Set([...waiters].map(({ client }) => client))];
}

const MAX_REFUSALS = 64;
const RETRY_MS = 60_000;

/** Remembers grammars that could not be compiled, so that they are not compiled again at once. */
export class Refusals {
  readonly #refusals = new Map<string, { readonly error: Error; readonly untilMs: number }>();

  get(key: string): Error | undefined {
    const refusal = this.#refusals.get(key);
    return refusal && performance.now() < refusal.untilMs ? refusal.error : undefined;
  }

  add(key: string, error: TypeError | RangeError): void {
    // A grammar that took too long may have met a busy machine.
    const untilMs = error instanceof RangeError ? performance.now() + RETRY_MS : Infinity;
    this.#refusals.delete(key);
    this.#refusals.set(key, { error, untilMs });
    for (const oldest of this.#refusals.keys()) {
      if (this.#refusals.size <= MAX_REFUSALS) return;
      this.#refusals.delete(oldest);
    }
  }
}
