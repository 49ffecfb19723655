// Prompt tokens that a worker's prefix cache is likely to have, by affinity, from the jobs that have ended there.

/** Weight of what was known before; a job that found nothing halves it. */
const MEMORY = 0.5;

/** Means over recent jobs. */
export class CachedPrefixes {
  readonly #tokens = new Map<string, number>();

  /** Tokens by affinity; those without any are left out. */
  get tokens(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#tokens);
  }

  /** @param cachedTokens - prompt tokens that a job had not to compute */
  ended(affinity: string, cachedTokens: number): void {
    const known = this.#tokens.get(affinity);
    const mean = known === undefined ? cachedTokens : MEMORY * known + (1 - MEMORY) * cachedTokens;
    if (mean < 1) this.#tokens.delete(affinity);
    else this.#tokens.set(affinity, mean);
  }
}
