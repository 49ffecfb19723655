/** Takes jobs whenever there may be some, one round at a time. */
export class PullLoop {
  readonly #pullSome: () => Promise<boolean>;
  readonly #onError: (error: unknown) => void;
  #isPulling = false;
  #mayHaveJobs = false;

  /** @param pullSome - takes jobs, and tells whether there may be more */
  constructor(pullSome: () => Promise<boolean>, onError: (error: unknown) => void) {
    this.#pullSome = pullSome;
    this.#onError = onError;
  }

  /** Looks for jobs now, or after the look that goes on. */
  wake(): void {
    this.#mayHaveJobs = true;
    void this.pull().catch(this.#onError);
  }

  /** Looks for jobs, unless a look goes on. */
  async pull(): Promise<void> {
    if (this.#isPulling) return;
    this.#isPulling = true;
    try {
      do {
        this.#mayHaveJobs = false;
        while (await this.#pullSome());
      } while (this.#mayHaveJobs);
    } finally {
      this.#isPulling = false;
    }
  }
}
