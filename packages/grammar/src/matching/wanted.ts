import type { KeyedSource } from "../grammar-source.ts";
import { MadeRoom, type GrammarHome } from "./grammar-home.ts";

/** Someone who waits for a compilation. */
export interface Waiter {
  readonly client: string;
  readonly succeed: (home: GrammarHome) => void;
  readonly fail: (error: unknown) => void;
}

/** A compilation that is wanted. */
export interface Wanted extends KeyedSource {
  readonly waiters: Set<Waiter>;
  isLong: boolean;
  run: Run | undefined;
}

/** A thread that compiles. */
export interface Run {
  readonly key: string;
  readonly home: GrammarHome;
  readonly startedMs: number;
  isLong: boolean;
  /** `undefined` once it was given up, and its thread is ending. */
  wanted: Wanted | undefined;
}

/** Ends its thread. */
export function giveUp(run: Run): void {
  run.wanted = undefined;
  run.home.close(new MadeRoom());
}

/** Each once. */
export function clientsOf({ waiters }: Wanted): readonly string[] {
  return [...new Set([...waiters].map(({ client }) => client))];
}
