// What a tuning changes of a model.

import { normals } from "../../router-training/router-start.ts";
import { seededRandom } from "@readme-moe/core";
import type { DecoderWeights, Weight, WeightGroup } from "../decoder/decoder-weights.ts";

export interface TrainableOptions {
  readonly method: "lora" | "full";
  /** Of the changes with the method `lora`. */
  readonly rank: number;
  /** Whether attention learns, too. */
  readonly attention: boolean;
  readonly seed: number;
}

/** A trained array. */
export interface Parameter extends Weight {
  /** Norms and biases are vectors: they have no weight decay, and learn at their own rate. */
  readonly isVector: boolean;
}

const LAYER_NORMS: ReadonlySet<string> = new Set(["norm", "output_norm"]);

/** Beside a weight `key`: the two factors of its change. */
export const LEFT = ".left";
export const RIGHT = ".right";

/**
 * Lists what is trained; with the method `lora`, adds factors to the weights' groups, whose product begins as zero.
 * @returns in the order of layers
 */
export function chooseParameters(weights: DecoderWeights, options: TrainableOptions): readonly Parameter[] {
  const random = seededRandom(options.seed);
  const parameters: Parameter[] = [];
  const choose = (group: WeightGroup, learns: boolean): void => {
    for (const [name, weight] of Array.from(group)) {
      // Norms learn wherever they are, those of heads with attention.
      if (!learns && !LAYER_NORMS.has(name)) continue;
      if (weight.shape.length === 1) parameters.push({ ...weight, isVector: true });
      else if (options.method === "full") parameters.push({ ...weight, isVector: false });
      else parameters.push(...addFactors(group, name, weight, options.rank, random));
    }
  };
  for (const { attention, common, experts } of weights.layers) {
    choose(attention, options.attention);
    choose(common, true);
    for (const expert of experts) choose(expert, true);
  }
  parameters.push({ ...weights.finalNorm, isVector: true });
  return parameters;
}

function addFactors(
  group: WeightGroup,
  name: string,
  { key, shape }: Weight,
  rank: number,
  random: () => number,
): readonly Parameter[] {
  const [out = 0, size = 0] = shape;
  const own = Math.min(rank, out, size);
  const left = { key: key + LEFT, shape: [own, size], values: normals(own * size, 1 / Math.sqrt(size), random) };
  const right = { key: key + RIGHT, shape: [out, own], values: new Float32Array(out * own) };
  const product = name.replace(/\.weight$/, "");
  group.set(product + LEFT, left).set(product + RIGHT, right);
  return [left, right].map((factor) => ({ ...factor, isVector: false }));
}
