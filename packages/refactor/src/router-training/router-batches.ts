// What each step of the training reads: crops of examples, the same for the same seed and step.

import { seededRandom } from "@readme-moe/core";
import type { RouterExample } from "./router-example.ts";
import type { BatchShape } from "./router-network.ts";

/** `[sequences · tokens]` ids and `[sequences · tokens, numExperts]` targets; what a short example lacks has targets of zero. */
export interface RouterBatch {
  readonly tokenIds: Int32Array;
  readonly targets: Float32Array;
}

export interface BatchOptions {
  readonly shape: BatchShape;
  readonly numExperts: number;
  /** Share of the tokens that others, from anywhere in the examples, take the place of. */
  readonly replacedShare: number;
  readonly seed: number;
}

/** A part of an example, about as long as a crop: examples are drawn as often as they have such parts. */
interface Stretch {
  readonly example: number;
  readonly start: number;
  readonly end: number;
}

export class RouterBatches {
  readonly #examples: readonly RouterExample[];
  readonly #targets: readonly Float32Array[];
  readonly #options: BatchOptions;
  readonly #places: readonly Stretch[];
  #order: readonly number[] = [];
  #epoch = -1;

  /** @param targets - of each example, see `routerTargets` */
  constructor(examples: readonly RouterExample[], targets: readonly Float32Array[], options: BatchOptions) {
    this.#examples = examples;
    this.#targets = targets;
    this.#options = options;
    const length = options.shape.tokens;
    this.#places = examples.flatMap(({ tokenIds }, example) => {
      const count = Math.max(1, Math.round(tokenIds.length / length));
      const cut = (place: number): number => Math.floor((tokenIds.length * place) / count);
      return Array.from({ length: count }, (_, place) => ({ example, start: cut(place), end: cut(place + 1) }));
    });
  }

  /** Crops of the examples in a new order each time around; a crop begins anywhere near its stretch. @param step - from 0 */
  batch(step: number): RouterBatch {
    const { shape, numExperts, replacedShare, seed } = this.#options;
    const random = seededRandom(mix(seed, step));
    const tokenIds = new Int32Array(shape.sequences * shape.tokens);
    const targets = new Float32Array(tokenIds.length * numExperts);
    for (let row = 0; row < shape.sequences; row++) {
      const place = this.#places[this.#placeOf(step * shape.sequences + row)] as Stretch;
      const { tokenIds: ids } = this.#examples[place.example] as RouterExample;
      const spare = Math.max(0, ids.length - shape.tokens);
      const middle = Math.floor((place.start + place.end - shape.tokens) / 2);
      const jitter = Math.floor((random() - 0.5) * shape.tokens);
      const from = Math.min(spare, Math.max(0, middle + jitter));
      const to = Math.min(ids.length, from + shape.tokens);
      tokenIds.set(ids.subarray(from, to), row * shape.tokens);
      const own = (this.#targets[place.example] as Float32Array).subarray(from * numExperts, to * numExperts);
      targets.set(own, row * shape.tokens * numExperts);
    }
    if (replacedShare > 0) {
      for (let i = 0; i < tokenIds.length; i++) if (random() < replacedShare) tokenIds[i] = this.#anyToken(random);
    }
    return { tokenIds, targets };
  }

  #placeOf(index: number): number {
    const count = this.#places.length;
    const epoch = Math.floor(index / count);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = permutation(count, seededRandom(mix(~this.#options.seed, epoch)));
    }
    return this.#order[index - epoch * count] as number;
  }

  #anyToken(random: () => number): number {
    const { example } = this.#places[Math.floor(random() * this.#places.length)] as Stretch;
    const { tokenIds } = this.#examples[example] as RouterExample;
    return tokenIds[Math.floor(random() * tokenIds.length)] as number;
  }
}

function permutation(count: number, random: () => number): readonly number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

/** A seed for each step that neighbours do not share. */
function mix(seed: number, step: number): number {
  let mixed = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(step + 1, 0xc2b2ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x27d4eb2f);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}
