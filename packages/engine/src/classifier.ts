// Classifiers of encoders: a few layers from the state of a text or token to logits, in float32.

import type { ClassifierRefs, TensorRef } from "@readme-moe/model";

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
  readonly #layers: readonly ClassifierLayer[];
  readonly #epsilon: number;

  private constructor(layers: readonly ClassifierLayer[], epsilon: number) {
    this.#layers = layers;
    this.#epsilon = epsilon;
  }

  /** Reads the layers. @param epsilon - of their norms @throws {ReadMeError} if a tensor cannot be read */
  static async open(refs: readonly ClassifierRefs[], epsilon: number): Promise<Classifier> {
    const layers = refs.map(async ({ weight, bias, activation, norm }): Promise<ClassifierLayer> => {
      const [size = 0] = weight.shape;
      return {
        weight: await read(weight),
        bias: bias ? await read(bias) : new Float32Array(size),
        activation,
        norm: norm && { scales: await read(norm), biases: norm.bias && (await read(norm.bias)) },
      };
    });
    return new Classifier(await Promise.all(layers), epsilon);
  }

  /** Computes the logits of a text, or of each of its tokens. @param states - `[hiddenSize]`, or rows of so many */
  logitsOf(states: Float32Array): Float32Array<ArrayBuffer> {
    const [first, last] = [this.#layers[0], this.#layers.at(-1)];
    if (!first || !last) return Float32Array.from(states);
    const [size, numOutputs] = [first.weight.length / first.bias.length, last.bias.length];
    const logits = new Float32Array((states.length / size) * numOutputs);
    for (let row = 0; row * size < states.length; row++) {
      const state = Float32Array.from(states.subarray(row * size, (row + 1) * size));
      logits.set(
        this.#layers.reduce((input, layer) => this.#run(layer, input), state),
        row * numOutputs,
      );
    }
    return logits;
  }

  #run({ weight, bias, activation, norm }: ClassifierLayer, input: Float32Array): Float32Array<ArrayBuffer> {
    const output = Float32Array.from(bias, (start, row) => {
      let sum = start;
      for (let i = 0; i < input.length; i++) sum += weight[row * input.length + i]! * input[i]!;
      return sum;
    });
    const active = activation === undefined ? output : output.map(ACTIVATIONS[activation]);
    if (!norm) return active;
    const mean = active.reduce((sum, value) => sum + value, 0) / active.length;
    const variance = active.reduce((sum, value) => sum + (value - mean) ** 2, 0) / active.length;
    const factor = 1 / Math.sqrt(variance + this.#epsilon);
    return active.map((value, i) => (value - mean) * factor * norm.scales[i]! + (norm.biases?.[i] ?? 0));
  }
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
