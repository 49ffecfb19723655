// AdamW over a tuning's parameters. What got no gradient in a step, such as an expert that no token went to, stays as it is.

import { adamStep, type AdamMoments } from "../../autodiff/adam.ts";
import { clipGradients } from "../../autodiff/schedule.ts";
import type { Parameter } from "./trainable.ts";

const ADAM = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 } as const;

export interface Rates {
  readonly matrices: number;
  readonly vectors: number;
  /** Of matrices. */
  readonly weightDecay: number;
}

interface ParameterState extends AdamMoments {
  steps: number;
}

export class Optimizer {
  readonly #parameters: readonly Parameter[];
  readonly #states = new Map<string, ParameterState>();
  readonly #gradients = new Map<string, Float32Array>();

  constructor(parameters: readonly Parameter[]) {
    this.#parameters = parameters;
  }

  /** Adds to the next step's gradient; `gradient` is this object's from here on. */
  add(key: string, gradient: Float32Array): void {
    const sum = this.#gradients.get(key);
    if (!sum) this.#gradients.set(key, gradient);
    else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (gradient[i] as number);
  }

  /** What was added so far; `undefined` where nothing was. */
  gradient(key: string): Float32Array | undefined {
    return this.#gradients.get(key);
  }

  /** Forgets what was added. */
  clear(): void {
    this.#gradients.clear();
  }

  /** Updates parameters by what was added. @returns the gradient's length before it was cut to `maxNorm` */
  step(rates: Rates, maxNorm: number): number {
    const norm = clipGradients([...this.#gradients.values()], maxNorm);
    for (const { key, values, isVector } of this.#parameters) {
      const gradient = this.#gradients.get(key);
      if (!gradient) continue;
      const state = this.#state(key, values.length);
      state.steps++;
      adamStep(values, gradient, state, state.steps, {
        ...ADAM,
        learningRate: isVector ? rates.vectors : rates.matrices,
        weightDecay: isVector ? 0 : rates.weightDecay,
      });
    }
    this.clear();
    return norm;
  }

  /** All that steps change, by name: the arrays themselves. */
  get tensors(): ReadonlyMap<string, Float32Array> {
    const tensors = new Map(this.#parameters.map(({ key, values }) => [key, values]));
    for (const [key, { first, second }] of this.#states)
      tensors.set(`${key}:first`, first).set(`${key}:second`, second);
    return tensors;
  }

  get steps(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#states].map(([key, { steps }]) => [key, steps]));
  }

  /** @param read - of a name of `tensors` */
  async restore(steps: Readonly<Record<string, number>>, read: (name: string) => Promise<Float32Array>): Promise<void> {
    for (const { key, values } of this.#parameters) {
      values.set(await read(key));
      const count = steps[key];
      if (count === undefined) continue;
      const [first, second] = [await read(`${key}:first`), await read(`${key}:second`)];
      this.#states.set(key, { first, second, steps: count });
    }
  }

  #state(key: string, length: number): ParameterState {
    const known = this.#states.get(key);
    if (known) return known;
    const made = { first: new Float32Array(length), second: new Float32Array(length), steps: 0 };
    this.#states.set(key, made);
    return made;
  }
}
