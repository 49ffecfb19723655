// Long work in pieces: between two of them the engine runs its steps and receives messages.

/** Work that pauses often; it may be left alone at any pause. */
export type PausingWork<Result> = Generator<void, Result>;

interface Turn {
  readonly work: PausingWork<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** Works that take turns: each goes on for a while, then the next one, so that a short one ends soon behind a long one. */
export class Turns {
  readonly #now: () => number;
  readonly #turns: Turn[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get hasWork(): boolean {
    return this.#turns.length > 0;
  }

  /**
   * Begins a work at once, for a moment: most are done then, and need no turn.
   * @param signal - leaves the work alone for good; the promise is rejected with its reason then
   */
  async begin<Result>(work: PausingWork<Result>, signal?: AbortSignal): Promise<Result> {
    signal?.throwIfAborted();
    return new Promise<Result>((resolve, reject) => {
      const turn: Turn = { work, resolve: resolve as (value: unknown) => void, reject };
      if (this.#advance(turn, FIRST_MS)) return;
      this.#turns.push(turn);
      signal?.addEventListener("abort", () => {
        const place = this.#turns.indexOf(turn);
        if (place < 0) return;
        this.#turns.splice(place, 1);
        reject(signal.reason);
      });
    });
  }

  /**
   * Goes on with the works that wait, for `maxMs` together.
   * @param maxMs - 5 at most count, because everything else waits meanwhile
   */
  run(maxMs: number = TURN_MS): void {
    const turnMs = Math.min(maxMs, TURN_MS);
    const endMs = this.#now() + turnMs;
    for (let leftMs = turnMs; leftMs > 0 && this.hasWork; leftMs = endMs - this.#now()) {
      const turn = this.#turns.shift() as Turn;
      if (!this.#advance(turn, leftMs)) this.#turns.push(turn);
    }
  }

  /** @returns whether the work is done */
  #advance({ work, resolve, reject }: Turn, maxMs: number): boolean {
    try {
      const endMs = this.#now() + maxMs;
      do {
        const { done, value } = work.next();
        if (done === true) {
          resolve(value);
          return true;
        }
      } while (this.#now() < endMs);
      return false;
    } catch (error) {
      reject(error);
      return true;
    }
  }
}

// Neither keeps the other waiting for long.
const [FIRST_MS, TURN_MS] = [1, 5];
