// Trained parameters, and the optimizer that updates them.

import { ADAM, adamStep, clipGradients, zeroMoments, type AdamMoments } from "../autodiff/adam.ts";
import type { ComposedWeight } from "./composed-weight.ts";
import type { Weight } from "./decoder/decoder-weights.ts";

/** Trained array. */
export interface Parameter extends Weight {
  /** Whether it is a norm or a bias. Vectors have no weight decay and their own learning rate. */
  readonly isVector: boolean;
}

/** Suffixes of the two factors of a weight's low-rank change. */
export const LEFT = ".left";
export const RIGHT = ".right";

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
  readonly #composed: ReadonlyMap<string, ComposedWeight>;

  /** @param composed - weights made of the parameters, by which gradients are given */
  constructor(parameters: readonly Parameter[], composed: readonly ComposedWeight[] = []) {
    this.#parameters = parameters;
    this.#composed = new Map(composed.map((weight) => [weight.key, weight]));
  }

  /** Adds to the gradient of the next step. The optimizer owns `gradient` afterwards. */
  add(key: string, gradient: Float32Array): void {
    const composed = this.#composed.get(key);
    if (composed) {
      composed.addGradient(gradient, (part) => this.#sumOf(part));
      return;
    }
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

  /** Returns the sum of a parameter's gradients so far. */
  #sumOf({ key, values }: Weight): Float32Array {
    const sum = this.#gradients.get(key) ?? new Float32Array(values.length);
    this.#gradients.set(key, sum);
    return sum;
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
