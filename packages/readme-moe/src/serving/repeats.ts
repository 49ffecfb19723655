// Limits repeated messages: the first is logged at once, the others as one count at the end of each window of time.

/** Messages that were held back in a window that has ended. */
export interface HeldBack<Message> {
  readonly count: number;
  readonly windowMs: number;
  readonly last: Message;
}

interface Window<Message> {
  endMs: number;
  count: number;
  last: Message;
}

/** Largest number of kinds with a window of their own; the others share one, so that memory has a limit. */
const MAX_KINDS = 64;
const OTHERS = "";

/** Times are monotonic, in ms. */
export class Repeats<Message> {
  readonly #windowMs: number;
  readonly #windows = new Map<string, Window<Message>>();

  constructor(windowMs: number) {
    this.#windowMs = windowMs;
  }

  /**
   * Adds a message. Call `due` with the same time before.
   *
   * @param kind - equal for messages that count as repeated
   * @returns whether to log the message now; else it is counted
   */
  take(kind: string, message: Message, nowMs: number): boolean {
    const own = this.#windows.has(kind) || this.#windows.size < MAX_KINDS ? kind : OTHERS;
    const window = this.#windows.get(own);
    if (window) {
      window.count++;
      window.last = message;
      return false;
    }
    this.#windows.set(own, { endMs: nowMs + this.#windowMs, count: 0, last: message });
    return true;
  }

  /** Returns what was held back in windows that have ended. Forgets kinds without a message for a whole window. */
  due(nowMs: number): readonly HeldBack<Message>[] {
    const over: HeldBack<Message>[] = [];
    for (const [kind, window] of this.#windows) {
      if (window.endMs > nowMs) continue;
      if (window.count > 0) over.push({ count: window.count, windowMs: this.#windowMs, last: window.last });
      if (window.count === 0) this.#windows.delete(kind);
      else this.#windows.set(kind, { ...window, endMs: nowMs + this.#windowMs, count: 0 });
    }
    return over;
  }

  /** Returns the end of the next window; `undefined` without windows. */
  nextMs(): number | undefined {
    const ends = Array.from(this.#windows.values(), ({ endMs }) => endMs);
    return ends.length === 0 ? undefined : Math.min(...ends);
  }
}
