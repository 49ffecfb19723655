const MAX_REFUSALS = 64;
const RETRY_MS = 60_000;

/** Remembers what could not be compiled, so that it is not tried again at once. */
export class Refusals {
  readonly #refusals = new Map<string, { readonly error: Error; readonly untilMs: number }>();

  get(key: string): Error | undefined {
    const refusal = this.#refusals.get(key);
    return refusal && performance.now() < refusal.untilMs ? refusal.error : undefined;
  }

  add(key: string, error: TypeError | RangeError): void {
    // What took too long may have met a busy machine.
    const untilMs = error instanceof RangeError ? performance.now() + RETRY_MS : Infinity;
    this.#refusals.delete(key);
    this.#refusals.set(key, { error, untilMs });
    for (const oldest of this.#refusals.keys()) {
      if (this.#refusals.size <= MAX_REFUSALS) return;
      this.#refusals.delete(oldest);
    }
  }
}
