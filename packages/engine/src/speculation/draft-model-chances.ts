import { averageChance, FIRST_CHANCE, relaxedChance } from "./draft-model-plan.ts";

/** Average chance of the drafted tokens of each sequence. */
export class SequenceChances {
  readonly #averages = new Map<string, number>();

  of(id: string): number {
    return this.#averages.get(id) ?? FIRST_CHANCE;
  }

  /** Includes the tokens of a draft. */
  include(id: string, chances: readonly number[]): void {
    if (chances.length > 0) this.#averages.set(id, chances.reduce(averageChance, this.of(id)));
  }

  /** Notes that a sequence was not drafted for. */
  relax(id: string): void {
    this.#averages.set(id, relaxedChance(this.of(id)));
  }

  forget(id: string): void {
    this.#averages.delete(id);
  }

  clear(): void {
    this.#averages.clear();
  }
}
