// Which weights a graph takes, under what names.

import type { Tape, Tensor } from "../../autodiff/tape.ts";
import { linear, linearWithLowRank } from "../../autodiff/products.ts";

/** The inputs of a graph that are weights. The same graph serves all layers, and all experts, whose weights look alike. */
export interface WeightShapes {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Of these names, those that gradients are wanted of. */
  readonly trained: ReadonlySet<string>;
}

/** What graphs that are alike have in common, as a text. */
export function keyOf({ shapes, trained }: WeightShapes): string {
  return JSON.stringify([[...shapes], [...trained].filter((name) => shapes.has(name))]);
}

/** A graph's weights, each made an input the first time that it is asked for. */
export class GraphWeights {
  readonly #tape: Tape;
  readonly #weights: WeightShapes;
  readonly #made = new Map<string, Tensor>();
  readonly #hasGradients: boolean;

  /** @param hasGradients - whether those that are trained are parameters of the tape */
  constructor(tape: Tape, weights: WeightShapes, hasGradients: boolean) {
    this.#tape = tape;
    this.#weights = weights;
    this.#hasGradients = hasGradients;
  }

  has(name: string): boolean {
    return this.#weights.shapes.has(name);
  }

  get(name: string): Tensor {
    const known = this.#made.get(name);
    if (known) return known;
    const shape = this.#weights.shapes.get(name);
    if (!shape) throw new TypeError(`Expected a weight \`${name}\`, there is none`);
    const isParameter = this.#hasGradients && this.#weights.trained.has(name);
    const made = isParameter ? this.#tape.parameter(name, shape) : this.#tape.data(name, "float32", shape);
    this.#made.set(name, made);
    return made;
  }

  /** The product named `name`, with what it has of a bias and of a change of low rank. */
  linear(name: string, x: Tensor): Tensor {
    const weight = this.get(`${name}.weight`);
    const bias = this.has(`${name}.bias`) ? this.get(`${name}.bias`) : undefined;
    if (!this.has(`${name}.left`)) return linear(this.#tape, x, weight, bias);
    const [left, right] = [this.get(`${name}.left`), this.get(`${name}.right`)];
    return linearWithLowRank(this.#tape, x, { weight, bias, left, right });
  }
}
