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

/** Waits for a promise, but no longer than `ms`. */
export async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
