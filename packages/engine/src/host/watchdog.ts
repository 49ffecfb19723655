// Notices a worker that hangs: an answer of it is awaited, and it gives no sign of life.

/** Number of equal parts of a limit. Parts are counted, not time: none pass while this process is suspended or busy. */
const PARTS = 10;

/** Silence of a worker that was asked for a sign of life, in whole parts of the limit. */
export interface Silence {
  readonly isAsked: boolean;
  readonly parts: number;
}

/** State of a worker that has just given a sign of life. */
export const HEARD: Silence = { isAsked: false, parts: 0 };

/** Returns the silence after one more part of the limit. A worker that was heard is asked again. */
export function afterPart({ isAsked, parts }: Silence): Silence {
  return { isAsked: true, parts: isAsked ? parts + 1 : 0 };
}

/** Whether a worker counts as hung: it was silent for nine to ten parts of the limit. */
export function isHung({ parts }: Silence): boolean {
  return parts >= PARTS - 1;
}

interface WatchdogHooks {
  /** Asks the worker for a sign of life. */
  readonly ask: () => void;
  /** Called once, with the limit. */
  readonly onHung: (limitMs: number) => void;
}

/** Watches a worker while answers are awaited. */
export class Watchdog {
  readonly #hooks: WatchdogHooks;
  #silence: Silence = HEARD;
  #limitMs: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(limitMs: number, hooks: WatchdogHooks) {
    this.#limitMs = limitMs;
    this.#hooks = hooks;
  }

  /** Notes a sign of life. */
  heard(): void {
    this.#silence = HEARD;
  }

  /** Sets the longest silence, in ms. The part that runs begins again. */
  set limitMs(limitMs: number) {
    if (limitMs === this.#limitMs) return;
    this.#limitMs = limitMs;
    if (this.#timer) this.#schedule();
  }

  start(): void {
    this.stop();
    this.#silence = HEARD;
    this.#pass();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #pass(): void {
    if (!this.#silence.isAsked) this.#hooks.ask();
    this.#silence = afterPart(this.#silence);
    if (isHung(this.#silence)) this.#hooks.onHung(this.#limitMs);
    else this.#schedule();
  }

  /** Gives each part a timer of its own, so that messages are received between two parts that are late. */
  #schedule(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#pass(), this.#limitMs / PARTS).unref();
  }
}
