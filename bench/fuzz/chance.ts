import { randomInteger, seededRandom } from "../../test/support/random.ts";

/** Random choices that depend on one number. */
export class Chance {
  readonly #random: () => number;

  constructor(seed: number) {
    this.#random = seededRandom(seed);
  }

  /** Creates the choices of one case, which depend on the two numbers only. */
  static ofCase(seed: number, index: number): Chance {
    return new Chance(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  }

  /** Draws an integer in `[0, limit)`. */
  below(limit: number): number {
    return randomInteger(this.#random, limit);
  }

  /** Draws an integer from `least` to `most`. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  /** Draws a number in `[least, most)`. */
  number(least: number, most: number): number {
    return least + this.#random() * (most - least);
  }

  happens(probability: number): boolean {
    return this.#random() < probability;
  }

  pick<Item>(items: readonly Item[]): Item {
    if (items.length === 0) throw new RangeError("Expected at least one item, got none");
    return items[this.below(items.length)] as Item;
  }

  /** Picks one of the items with probabilities proportional to their weights. */
  weighted<Item>(items: readonly (readonly [weight: number, item: Item])[]): Item {
    let left = this.number(
      0,
      items.reduce((sum, [weight]) => sum + weight, 0),
    );
    for (const [weight, item] of items) {
      left -= weight;
      if (left < 0) return item;
    }
    return (items.at(-1) as readonly [number, Item])[1];
  }

  /** Makes a list of `least` to `most` items. */
  list<Item>(least: number, most: number, item: (index: number) => Item): Item[] {
    return Array.from({ length: this.between(least, most) }, (_, index) => item(index));
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.below(256)));
  }
}
