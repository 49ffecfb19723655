// A few layers from the state of a text or token to logits or to an embedding, in float32: classifiers, and modules
// Dense.

import type { ClassifierRefs, Model, TensorRef } from "@readme-moe/model";

interface ClassifierLayer {
  /** `[size, hiddenSize]`. */
  readonly weight: Float32Array;
  /** `[size]`. */
  readonly bias: Float32Array;
  readonly activation: ClassifierRefs["activation"];
  readonly norm: { readonly scales: Float32Array; readonly biases: Float32Array | undefined } | undefined;
}

/** Computes logits from states. */
export class Classifier {
  /** Whether the states of all tokens have results, too; without it they are results themselves. */
  readonly isOfTokens: boolean;
  readonly #layers: readonly ClassifierLayer[];
  readonly #epsilon: number;

  private constructor(layers: readonly ClassifierLayer[], epsilon: number, isOfTokens: boolean) {
    this.isOfTokens = isOfTokens;
    this.#layers = layers;
    this.#epsilon = epsilon;
  }

  /** Reads the layers. @param epsilon - of their norms @throws {ReadMeError} if a tensor cannot be read */
  static async open(refs: readonly ClassifierRefs[], epsilon: number, isOfTokens = true): Promise<Classifier> {
    const layers = refs.map(async ({ weight, bias, activation, norm }): Promise<ClassifierLayer> => {
      const [size = 0] = weight.shape;
      return {
        weight: await read(weight),
        bias: bias ? await read(bias) : new Float32Array(size),
        activation,
        norm: norm && { scales: await read(norm), biases: norm.bias && (await read(norm.bias)) },
      };
    });
    return new Classifier(await Promise.all(layers), epsilon, isOfTokens);
  }

  /** Computes the logits of a text, or of each of its tokens. @param states - `[hiddenSize]`, or rows of so many */
  logitsOf(states: Float32Array): Float32Array<ArrayBuffer> {
    const steps = this.logitsInSteps(states);
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
    }
  }

  /** Computes the same, with a pause after each million of products at most. */
  *logitsInSteps(states: Float32Array): Generator<void, Float32Array<ArrayBuffer>> {
    const [first, last] = [this.#layers[0], this.#layers.at(-1)];
    if (!first || !last) return Float32Array.from(states);
    const [size, numOutputs] = [first.weight.length / first.bias.length, last.bias.length];
    const logits = new Float32Array((states.length / size) * numOutputs);
    for (let row = 0; row * size < states.length; row++) {
      let values: Float32Array = states.subarray(row * size, (row + 1) * size);
      for (const layer of this.#layers) values = yield* this.#run(layer, values);
      logits.set(values, row * numOutputs);
    }
    return logits;
  }

  *#run({ weight, bias, activation, norm }: ClassifierLayer, input: Float32Array): Generator<void, Float32Array> {
    const output = Float32Array.from(bias);
    const rowsAtOnce = Math.ceil(PRODUCTS_AT_ONCE / input.length);
    for (let from = 0; from < output.length; from += rowsAtOnce) {
      if (from > 0) yield;
      addProducts(output.subarray(from, from + rowsAtOnce), weight.subarray(from * input.length), input);
    }
    const active = activation === undefined ? output : output.map(ACTIVATIONS[activation]);
    if (!norm) return active;
    const mean = active.reduce((sum, value) => sum + value, 0) / active.length;
    const variance = active.reduce((sum, value) => sum + (value - mean) ** 2, 0) / active.length;
    const factor = 1 / Math.sqrt(variance + this.#epsilon);
    return active.map((value, i) => (value - mean) * factor * norm.scales[i]! + (norm.biases?.[i] ?? 0));
  }
}

/** Layers that fill masks, read when they are first used. */
export class MaskedHead {
  readonly #model: Pick<Model, "weights" | "config">;
  #opening: Promise<Classifier> | undefined;
  #opened: Classifier | undefined;

  constructor(model: Pick<Model, "weights" | "config">) {
    this.#model = model;
  }

  /** Reads the layers; later calls share them. @throws {ReadMeError} if a tensor cannot be read */
  async open(): Promise<void> {
    const { weights, config } = this.#model;
    this.#opening ??= Classifier.open(weights.encoder?.masked ?? [], config.rmsNormEpsilon);
    this.#opened = await this.#opening.catch((error: unknown) => {
      this.#opening = undefined;
      throw error;
    });
  }

  /** @throws {TypeError} before `open` */
  get opened(): Classifier {
    if (this.#opened) return this.#opened;
    throw new TypeError("Expected the layers that fill masks to be open");
  }
}

const PRODUCTS_AT_ONCE = 2 ** 20;

/** Adds to each output the product of its row of weights, `[outputs, inputs]`. */
function addProducts(outputs: Float32Array, weight: Float32Array, input: Float32Array): void {
  for (let row = 0; row < outputs.length; row++) outputs[row]! += rowProduct(weight, row * input.length, input);
}

/** Multiplies the row from `at` on by an input. In four sums, none of which waits for the one before it. */
function rowProduct(weight: Float32Array, at: number, input: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  let i = 0;
  for (; i + 3 < input.length; i += 4) {
    a += weight[at + i]! * input[i]!;
    b += weight[at + i + 1]! * input[i + 1]!;
    c += weight[at + i + 2]! * input[i + 2]!;
    d += weight[at + i + 3]! * input[i + 3]!;
  }
  for (; i < input.length; i++) a += weight[at + i]! * input[i]!;
  return a + b + (c + d);
}

function read({ store, name }: TensorRef): Promise<Float32Array> {
  return store.readFloats(name);
}

const ACTIVATIONS = {
  tanh: Math.tanh,
  relu: (x: number) => Math.max(0, x),
  gelu: (x: number) => (x * (1 + erf(x / Math.SQRT2))) / 2,
};

/** Computes the error function within 2e-7 (Abramowitz and Stegun, 7.1.26). */
function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - p * Math.exp(-x * x));
}
