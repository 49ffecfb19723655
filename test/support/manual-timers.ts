/** Timers that go off when a test says so. */
export interface ManualTimers {
  after(delayMs: number, callback: () => void): () => void;
  /** Resolves when something waits for `delayMs`, at once where it does already. */
  waiting(delayMs: number): Promise<void>;
  /** Returns the number of the timer that has waited for `delayMs` longest. Each timer has another number. */
  waitingSince(delayMs: number): number | undefined;
  /** How many wait for `delayMs`. */
  count(delayMs: number): number;
  /** Lets everything go off that waits for `delayMs` now. @returns how many */
  fire(delayMs: number): number;
}

export function manualTimers(): ManualTimers {
  const timers = new Set<{ readonly id: number; readonly delayMs: number; readonly callback: () => void }>();
  let numBegun = 0;
  const watchers = new Map<number, (() => void)[]>();
  const isWaiting = (delayMs: number): boolean => [...timers].some((timer) => timer.delayMs === delayMs);
  return {
    after(delayMs, callback) {
      const timer = { id: ++numBegun, delayMs, callback };
      timers.add(timer);
      for (const resolve of watchers.get(delayMs) ?? []) resolve();
      watchers.delete(delayMs);
      return () => timers.delete(timer);
    },
    async waiting(delayMs) {
      if (isWaiting(delayMs)) return;
      await new Promise<void>((resolve) => watchers.set(delayMs, [...(watchers.get(delayMs) ?? []), resolve]));
    },
    waitingSince: (delayMs) => [...timers].find((timer) => timer.delayMs === delayMs)?.id,
    count: (delayMs) => [...timers].filter((timer) => timer.delayMs === delayMs).length,
    fire(delayMs) {
      const due = [...timers].filter((timer) => timer.delayMs === delayMs);
      for (const timer of due) {
        timers.delete(timer);
        timer.callback();
      }
      return due.length;
    },
  };
}
