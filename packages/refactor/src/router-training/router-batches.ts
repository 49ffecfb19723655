// Batches of a router's training: crops of examples, the same for the same seed and step.

import { seededRandom } from "@readme-moe/core";
import { shuffled } from "../random.ts";
import type { BatchShape } from "./router-network.ts";
import type { RouterExample } from "./router-targets.ts";

/**
 * Token ids `[sequences · tokens]` and targets `[sequences · tokens, numExperts]`. Rows beyond the end of a short
 * example have targets of zero.
 */
export interface RouterBatch {
  readonly tokenIds: Int32Array;
  readonly targets: Float32Array;
}

export interface BatchOptions {
  readonly shape: BatchShape;
  readonly numExperts: number;
  /** Share of the tokens that are replaced by tokens drawn from all examples. */
  readonly replacedShare: number;
  readonly seed: number;
}

/** Part of an example, about as long as a crop. An example is drawn as often as it has parts. */
interface Stretch {
  /** Tokens and targets of the whole example. */
  readonly tokenIds: Int32Array;
  readonly targets: Float32Array;
  readonly start: number;
  readonly end: number;
}

export class RouterBatches {
  readonly #options: BatchOptions;
  readonly #stretches: readonly Stretch[];
  #order: readonly Stretch[] = [];
  #epoch = -1;

  /** @param targets - of each example, see `routerTargets` */
  constructor(examples: readonly RouterExample[], targets: readonly Float32Array[], options: BatchOptions) {
    this.#options = options;
    const length = options.shape.tokens;
    this.#stretches = examples.flatMap(({ tokenIds }, index) => {
      const count = Math.max(1, Math.round(tokenIds.length / length));
      const cut = (place: number): number => Math.floor((tokenIds.length * place) / count);
      const example = { tokenIds, targets: targets[index]! };
      return Array.from({ length: count }, (_, place) => ({ ...example, start: cut(place), end: cut(place + 1) }));
    });
  }

  /**
   * Crops the stretches of a step; each epoch has a new order. A crop begins at a random place near its stretch.
   *
   * @param step - from 0
   */
  batch(step: number): RouterBatch {
    const { shape, numExperts, replacedShare, seed } = this.#options;
    const random = seededRandom(mix(seed, step));
    const tokenIds = new Int32Array(shape.sequences * shape.tokens);
    const targets = new Float32Array(tokenIds.length * numExperts);
    for (let row = 0; row < shape.sequences; row++) {
      const stretch = this.#stretchAt(step * shape.sequences + row);
      const { length } = stretch.tokenIds;
      const spare = Math.max(0, length - shape.tokens);
      const middle = Math.floor((stretch.start + stretch.end - shape.tokens) / 2);
      const jitter = Math.floor((random() - 0.5) * shape.tokens);
      const from = Math.min(spare, Math.max(0, middle + jitter));
      const to = Math.min(length, from + shape.tokens);
      tokenIds.set(stretch.tokenIds.subarray(from, to), row * shape.tokens);
      targets.set(stretch.targets.subarray(from * numExperts, to * numExperts), row * shape.tokens * numExperts);
    }
    if (replacedShare > 0) {
      for (let i = 0; i < tokenIds.length; i++) if (random() < replacedShare) tokenIds[i] = this.#anyToken(random);
    }
    return { tokenIds, targets };
  }

  #stretchAt(index: number): Stretch {
    const count = this.#stretches.length;
    const epoch = Math.floor(index / count);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = shuffled(this.#stretches, mix(~this.#options.seed, epoch));
    }
    return this.#order[index - epoch * count]!;
  }

  #anyToken(random: () => number): number {
    const { tokenIds } = this.#stretches[Math.floor(random() * this.#stretches.length)]!;
    return tokenIds[Math.floor(random() * tokenIds.length)]!;
  }
}

/** Mixes a seed with a step, so that the random numbers of consecutive steps are independent. */
function mix(seed: number, step: number): number {
  let mixed = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(step + 1, 0xc2b2ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x27d4eb2f);
  return (mixed ^ (mixed >>> 13)) >>> 0;
}
