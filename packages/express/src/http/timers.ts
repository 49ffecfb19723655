// Times: delays and signals that wait, and the shares of the event loop that clients get.

import { LIMITS } from "../limits.ts";

/** Source of delays. Tests pass their own. */
export interface Timers {
  /** Calls `callback` once after `delayMs`. @returns a function that cancels the call */
  after(delayMs: number, callback: () => void): () => void;
}

export const systemTimers: Timers = {
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

/** A signal that aborts with the reason of another one, a time later. */
export class DelayedSignal {
  /** Time between both, in ms. */
  delayMs = 0;
  readonly #controller = new AbortController();
  #stop: () => void = () => undefined;

  constructor(signal: AbortSignal, timers: Timers) {
    const abort = (): void => this.#controller.abort(signal.reason);
    const onAbort = (): void => {
      if (this.delayMs > 0) this.#stop = timers.after(this.delayMs, abort);
      else abort();
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Stops a delay under way: the signal aborts no more. */
  stop(): void {
    this.#stop();
  }
}

/** Waits for a promise, but no longer than `ms`. @returns nothing if that was too short */
export async function within<Result>(ms: number, promise: Promise<Result>): Promise<Result | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => (timer = setTimeout(resolve, ms, undefined)));
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}

/** Duration that is not counted, in ms. */
const FREE_MS = 5;
/** Estimated time to parse and check a body. */
const MS_PER_BYTE = 12 / 2 ** 20;

/**
 * Shares the event loop's time between clients: a client whose bodies take long to read, or whose answers take long to
 * write, waits in proportion before the next one. Times in ms of any one clock.
 */
export class Paces {
  readonly #share: number;
  /** End of each waiting client's wait, by client. */
  readonly #readyMs = new Map<string, number>();

  /** @param share - the share of the time that one client may take, above 0 and at most 1 */
  constructor(share: number = LIMITS.loopShare.value) {
    this.#share = share;
  }

  /** Returns how long a client's next body has to wait: 0 for most clients. */
  waitMs(client: string, nowMs: number): number {
    return Math.max(0, (this.#readyMs.get(client) ?? 0) - nowMs);
  }

  /**
   * Counts a body's estimated time before it is read, so that bodies that arrive together take turns.
   *
   * @returns a function that corrects the estimate by the measured duration
   */
  begin(client: string, bytes: number, nowMs: number): (durationMs: number, nowMs: number) => void {
    const expectedMs = bytes * MS_PER_BYTE;
    this.#spend(client, expectedMs, nowMs);
    return (durationMs, endMs) => this.#spend(client, durationMs - expectedMs, endMs);
  }

  /** Runs work when the client's turn comes, and counts its time. */
  async run<Result>(client: string, work: () => Result): Promise<Result> {
    for (;;) {
      const waitMs = this.waitMs(client, performance.now());
      if (waitMs === 0) break;
      await new Promise((resolve) => void setTimeout(resolve, waitMs));
    }
    const startMs = performance.now();
    try {
      return work();
    } finally {
      const endMs = performance.now();
      this.#spend(client, endMs - startMs, endMs);
    }
  }

  #spend(client: string, durationMs: number, nowMs: number): void {
    if (durationMs <= FREE_MS) return;
    const startMs = Math.max(nowMs, this.#readyMs.get(client) ?? 0);
    this.#readyMs.set(client, startMs + durationMs * (1 / this.#share - 1));
    for (const [other, readyMs] of this.#readyMs) if (readyMs <= nowMs) this.#readyMs.delete(other);
  }
}
