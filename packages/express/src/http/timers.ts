/** Longest delay of Node's timers, in ms. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

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

/** Waits for a promise, but no longer than `ms`. */
export async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  await Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
