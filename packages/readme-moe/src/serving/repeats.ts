// Which of many equal messages are said: the first at once, the others as one count at the end of each window of time.

/** Messages that were held back in a window that is over. */
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

/** Names more kinds than these at once: the others share one window, so that its memory has a limit. */
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
   * Takes a message in. To be called after `due` of the same time.
   *
   * @param kind - the same for messages that say the same
   * @returns whether to say it now; else it is counted
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

  /** What was held back in windows that are over; a kind that was quiet for a whole window is forgotten. */
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

  /** When the next window is over; `undefined` where there is none. */
  nextMs(): number | undefined {
    const ends = Array.from(this.#windows.values(), ({ endMs }) => endMs);
    return ends.length === 0 ? undefined : Math.min(...ends);
  }
}
