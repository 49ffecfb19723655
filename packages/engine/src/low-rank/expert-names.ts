import { expertIndex } from "@readme-moe/core";

/** Largest number of low-rank experts of an engine at once. */
export const MAX_LOW_RANK_EXPERTS = 1024;

/** Name of expert 0 of a dense model with low-rank experts: the model without a change. */
export const NO_EXPERT = "none";

interface Entry {
  readonly name: string;
  /** False while the expert is being added, and while the last sequences with it run. */
  isUsable: boolean;
}

/** Names of a dense model's experts by index. An expert keeps its index; the index of a removed one is used again. */
export class ExpertNames {
  readonly #entries: (Entry | undefined)[] = [{ name: NO_EXPERT, isUsable: true }];

  /** Names by index; empty where no expert can be used. */
  get list(): readonly string[] {
    return this.#entries.map((entry) => (entry?.isUsable === true ? entry.name : ""));
  }

  /** Number of places, those of experts that cannot be used included. */
  get size(): number {
    return this.#entries.length;
  }

  /** Finds an expert that can be used, by its name or index. @throws {RangeError} on an unknown one */
  indexOf(choice: string | number): number {
    return expertIndex(this.list, choice);
  }

  /**
   * Takes an index for a new expert, which cannot be used yet.
   * @throws {RangeError} if the name is taken, or there are too many experts
   */
  reserve(name: string): number {
    if (this.#entries.some((entry) => entry?.name === name)) {
      throw new RangeError(`Expected \`name\` to be a new expert's, got \`${name}\``);
    }
    const free = this.#entries.indexOf(undefined);
    const index = free < 0 ? this.#entries.length : free;
    if (index > MAX_LOW_RANK_EXPERTS) {
      throw new RangeError(`Expected at most ${MAX_LOW_RANK_EXPERTS} low-rank experts at once, got one more`);
    }
    this.#entries[index] = { name, isUsable: false };
    return index;
  }

  /** Sets whether later requests can use an expert. */
  setUsable(index: number, isUsable: boolean): void {
    const entry = this.#entries[index];
    if (entry) entry.isUsable = isUsable;
  }

  /** Frees the index of an expert. */
  free(index: number): void {
    this.#entries[index] = undefined;
    while (this.#entries.at(-1) === undefined) this.#entries.pop();
  }
}
