/** Where waiting comes from; tests pass their own. */
export interface Timers {
  /** Calls back once, later. @returns stops it */
  after(delayMs: number, callback: () => void): () => void;
}

export const systemTimers: Timers = {
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};
