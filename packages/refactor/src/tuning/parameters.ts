// Trained parameters of a tuning, and the optimizer that updates them.

import { seededRandom } from "@readme-moe/core";
import { ADAM, adamStep, clipGradients, zeroMoments, type AdamMoments } from "../autodiff/adam.ts";
import { normals } from "../random.ts";
import type { DecoderWeights, Weight, WeightGroup } from "./decoder/decoder-weights.ts";

export interface TrainableOptions {
  readonly method: "lora" | "full";
  /** Rank of the changes with the method `lora`. */
  readonly rank: number;
  /** Whether attention is trained, too. */
  readonly attention: boolean;
  readonly seed: number;
}

/** Trained array. */
export interface Parameter extends Weight {
  /** Whether it is a norm or a bias. Vectors have no weight decay and their own learning rate. */
  readonly isVector: boolean;
}

const LAYER_NORMS: ReadonlySet<string> = new Set(["norm", "output_norm"]);

/** Suffixes of the two factors of a weight's low-rank change. */
export const LEFT = ".left";
export const RIGHT = ".right";

/**
 * Lists the trained parameters in the order of layers. The method `lora` adds factors to the weights' groups; their
 * product starts as zero.
 */
export function chooseParameters(weights: DecoderWeights, options: TrainableOptions): readonly Parameter[] {
  const random = seededRandom(options.seed);
  const parameters: Parameter[] = [];
  const choose = (group: WeightGroup, isTrained: boolean): void => {
    for (const [name, weight] of Array.from(group)) {
      // Norms of layers are always trained; norms of heads only with attention.
      if (!isTrained && !LAYER_NORMS.has(name)) continue;
      if (weight.shape.length === 1) parameters.push({ ...weight, isVector: true });
      else if (options.method === "full") parameters.push({ ...weight, isVector: false });
      else {
        const [left, right] = factorsOf(weight, options.rank, random);
        const product = name.replace(/\.weight$/, "");
        group.set(product + LEFT, left).set(product + RIGHT, right);
        parameters.push({ ...left, isVector: false }, { ...right, isVector: false });
      }
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

function factorsOf({ key, shape }: Weight, maxRank: number, random: () => number): readonly [Weight, Weight] {
  const [out = 0, size = 0] = shape;
  const rank = Math.min(maxRank, out, size);
  return [
    { key: key + LEFT, shape: [rank, size], values: normals(rank * size, 1 / Math.sqrt(size), random) },
    { key: key + RIGHT, shape: [out, rank], values: new Float32Array(out * rank) },
  ];
}

export interface Rates {
  /** Learning rate of matrices. */
  readonly matrices: number;
  /** Learning rate of vectors. */
  readonly vectors: number;
  /** Weight decay of matrices. */
  readonly weightDecay: number;
}

interface ParameterState extends AdamMoments {
  steps: number;
}

/** AdamW. A parameter without a gradient in a step, such as an expert without tokens, does not change. */
export class Optimizer {
  readonly #parameters: readonly Parameter[];
  readonly #states = new Map<string, ParameterState>();
  readonly #gradients = new Map<string, Float32Array>();

  constructor(parameters: readonly Parameter[]) {
    this.#parameters = parameters;
  }

  /** Adds to the gradient of the next step. The optimizer owns `gradient` afterwards. */
  add(key: string, gradient: Float32Array): void {
    const sum = this.#gradients.get(key);
    if (!sum) this.#gradients.set(key, gradient);
    else for (let i = 0; i < sum.length; i++) sum[i]! += gradient[i]!;
  }

  /** Returns the gradient of the next step so far; `undefined` when there is none. */
  gradient(key: string): Float32Array | undefined {
    return this.#gradients.get(key);
  }

  /** Discards the gradients of the next step. */
  clear(): void {
    this.#gradients.clear();
  }

  /** Updates the parameters. @returns the gradient's norm before it was clipped to `maxNorm` */
  step(rates: Rates, maxNorm: number): number {
    const norm = clipGradients([...this.#gradients.values()], maxNorm);
    for (const { key, values, isVector } of this.#parameters) {
      const gradient = this.#gradients.get(key);
      if (!gradient) continue;
      const state = this.#states.get(key) ?? { ...zeroMoments(values.length), steps: 0 };
      state.steps++;
      this.#states.set(key, state);
      adamStep({ ...state, values, step: state.steps }, gradient, {
        ...ADAM,
        learningRate: isVector ? rates.vectors : rates.matrices,
        weightDecay: isVector ? 0 : rates.weightDecay,
      });
    }
    this.clear();
    return norm;
  }

  /** All arrays that steps change, by name. */
  get tensors(): ReadonlyMap<string, Float32Array> {
    const tensors = new Map(this.#parameters.map(({ key, values }) => [key, values]));
    for (const [key, { first, second }] of this.#states) {
      tensors.set(`${key}:first`, first).set(`${key}:second`, second);
    }
    return tensors;
  }

  /** Steps of each parameter. */
  get steps(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#states].map(([key, { steps }]) => [key, steps]));
  }

  /** Prepares `tensors` for the values of a checkpoint with these steps. */
  restoreSteps(counts: Readonly<Record<string, number>>): void {
    for (const { key, values } of this.#parameters) {
      const steps = counts[key];
      if (steps !== undefined) this.#states.set(key, { ...zeroMoments(values.length), steps });
    }
  }
}
