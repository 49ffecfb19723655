// Reverse-mode differentiation that appends to an ONNX graph: one graph computes a loss and its gradients.

import * as operators from "../graphs/operators.ts";
import { GraphBuilder, type Graph, type Value } from "../graphs/graph-builder.ts";

/** Size of a first axis that differs from run to run. Operations that depend on sizes refuse it. */
export const ANY_ROWS = -1;

/** Tensor of a graph whose shape is known when the graph is built, except for `ANY_ROWS`. */
export interface Tensor {
  readonly value: Value;
  readonly shape: readonly number[];
  /** Whether it depends on a parameter. */
  readonly needsGradient: boolean;
  /** Name of a weight `[out, in]` that is no tensor of the graph, but multiplied by the kernel. */
  readonly frozen?: string;
}

/** Way of a weight into a run: a frozen product, a parameter with a gradient, or an input without one. */
export type WeightKind = "frozen" | "trained" | "data";

/** Appends the gradient of an operation's input, given the gradient of the operation's output. */
type Rule = (outputGradient: Value) => Value;

interface Operation {
  readonly output: Tensor;
  readonly inputs: readonly (readonly [Tensor, Rule])[];
}

/** Records operations and their rules while a graph is built. Parameters are inputs of the graph, like data. */
export class Tape {
  readonly graph: GraphBuilder;
  readonly #operations: Operation[] = [];
  readonly #parameters: { readonly name: string; readonly tensor: Tensor }[] = [];

  constructor(name: string) {
    this.graph = new GraphBuilder(name);
  }

  /** Adds a float32 input with a gradient, which `build` outputs. */
  parameter(name: string, shape: readonly number[]): Tensor {
    const tensor = { value: this.graph.input(name, "float32", dimensions(shape)), shape, needsGradient: true };
    this.#parameters.push({ name, tensor });
    return tensor;
  }

  /** Adds an input without a gradient. */
  data(name: string, type: "float32" | "int64", shape: readonly number[]): Tensor {
    return { value: this.graph.input(name, type, dimensions(shape)), shape, needsGradient: false };
  }

  /** Names a weight that the caller passes as a frozen product at every run. */
  frozen(name: string, shape: readonly number[]): Tensor {
    return { value: name as Value, shape, needsGradient: false, frozen: name };
  }

  /** Declares a float32 weight in the way in which a run has it. */
  declare(name: string, shape: readonly number[], kind: WeightKind): Tensor {
    if (kind === "frozen") return this.frozen(name, shape);
    return kind === "trained" ? this.parameter(name, shape) : this.data(name, "float32", shape);
  }

  /** Adds a tensor that is the same in all runs. */
  constant(
    name: string,
    type: "float32" | "int64",
    shape: readonly number[],
    { buffer, byteOffset, byteLength }: Float32Array | BigInt64Array,
  ): Tensor {
    const value = this.graph.weight(name, type, shape, () => new Uint8Array(buffer, byteOffset, byteLength));
    return { value, shape, needsGradient: false };
  }

  /** Adds a float32 tensor that is the same in all runs, read when the graph's session is opened. */
  weight(name: string, shape: readonly number[], read: () => Promise<Float32Array> | Float32Array): Tensor {
    const value = this.graph.weight(name, "float32", shape, async () => {
      const { buffer, byteOffset, byteLength } = await read();
      return new Uint8Array(buffer, byteOffset, byteLength);
    });
    return { value, shape, needsGradient: false };
  }

  /** Returns the output of an operation, given each input with its rule. */
  record(value: Value, shape: readonly number[], inputs: Operation["inputs"]): Tensor {
    const wanted = inputs.filter(([input]) => input.needsGradient);
    const output = { value, shape, needsGradient: wanted.length > 0 };
    if (output.needsGradient) this.#operations.push({ output, inputs: wanted });
    return output;
  }

  /**
   * Builds the graph with outputs `loss` and, for each parameter, `gradientName`.
   *
   * @param loss - of shape `[1]`
   */
  build(loss: Tensor): Graph {
    this.graph.output("loss", loss.value, "float32", [1]);
    return this.pullback(loss, this.graph.floats([1]));
  }

  /**
   * Builds the graph with an output `gradientName` for each parameter, and without nodes that no output depends on.
   *
   * @param seed - gradient of some loss by `output`
   */
  pullback(output: Tensor, seed: Value): Graph {
    const gradients = this.#gradients(output, seed);
    for (const { name, tensor } of this.#parameters) {
      const gradient = gradients.get(tensor.value);
      if (!gradient) throw new TypeError(`Expected the loss to depend on parameter \`${name}\`, but it does not`);
      this.graph.output(gradientName(name), gradient, "float32", dimensions(tensor.shape));
    }
    return withoutIdleNodes(this.graph.build());
  }

  #gradients(output: Tensor, seed: Value): ReadonlyMap<Value, Value> {
    const gradients = new Map<Value, Value>([[output.value, seed]]);
    for (const { output: result, inputs } of this.#operations.toReversed()) {
      const gradient = gradients.get(result.value);
      if (!gradient) continue;
      for (const [{ value }, rule] of inputs) {
        const share = rule(gradient);
        const known = gradients.get(value);
        gradients.set(value, known ? operators.Add(this.graph, known, share) : share);
      }
    }
    return gradients;
  }
}

/** Returns the name that `Tape.build` gives to the gradient of a parameter. */
export function gradientName(parameter: string): string {
  return `gradient:${parameter}`;
}

/** Returns the number of elements of a shape. @throws {TypeError} for a shape with `ANY_ROWS` */
export function countOf(shape: readonly number[]): number {
  if (shape.includes(ANY_ROWS)) throw new TypeError("Expected a tensor of a known size, got one of any number of rows");
  return shape.reduce((product, size) => product * size, 1);
}

function dimensions(shape: readonly number[]): readonly (number | string)[] {
  return shape.map((size) => (size === ANY_ROWS ? "rows" : size));
}

/**
 * Removes nodes that no output depends on. The runtime would run them, and a forward pass ends with some when only
 * gradient rules read its intermediate values.
 */
function withoutIdleNodes(graph: Graph): Graph {
  const wanted = new Set<Value | undefined>(graph.outputs.map(({ name }) => name));
  const nodes = graph.nodes
    .toReversed()
    .filter(({ inputs, outputs }) => {
      if (!outputs.some((output) => output !== undefined && wanted.has(output))) return false;
      for (const input of inputs) wanted.add(input);
      return true;
    })
    .toReversed();
  return { ...graph, nodes, constants: graph.constants.filter(({ name }) => wanted.has(name)) };
}
