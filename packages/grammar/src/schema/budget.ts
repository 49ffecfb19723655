import { MAX_SOURCE_CHARACTERS, sourceTooLong } from "../grammar-source.ts";

const MAX_STEPS = 250_000;

/** Bounds what turning one request into a grammar may cost, whatever it says: that runs on the caller's event loop. */
export class Budget {
  #steps = MAX_STEPS;
  #characters = MAX_SOURCE_CHARACTERS;

  /**
   * @param steps - of some 100 ns each
   * @throws {RangeError} when there are none left
   */
  spend(steps: number): void {
    this.#steps -= steps;
    if (this.#steps >= 0) return;
    throw new RangeError(`Expected a schema or grammar that is read in at most ${MAX_STEPS} steps; simplify it`);
  }

  /**
   * @param characters - which the grammar will have; call it before they are written
   * @throws {RangeError} when the grammar becomes too long
   */
  write(characters: number): void {
    this.#characters -= characters;
    if (this.#characters < 0) throw sourceTooLong();
  }
}
