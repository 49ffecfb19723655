// Reverse-mode differentiation that appends to an ONNX graph: one graph computes a loss and its gradients.

import { GraphBuilder, operators, type Graph, type Value } from "@readme-moe/onnx";
import { withoutIdleNodes } from "./idle-nodes.ts";

/** The size of a first axis that differs from run to run. Operations that look at sizes refuse it. */
export const ANY_ROWS = -1;

/** A tensor of a graph whose shape is known when the graph is built, but for `ANY_ROWS`. */
export interface Tensor {
  readonly value: Value;
  readonly shape: readonly number[];
  /** Whether it depends on a parameter. */
  readonly needsGradient: boolean;
}

/** Appends what an operation's input gets of the gradient of the operation's output. */
type Rule = (outputGradient: Value) => Value;

interface Operation {
  readonly output: Tensor;
  readonly inputs: readonly (readonly [Tensor, Rule])[];
}

interface Parameter {
  readonly name: string;
  readonly tensor: Tensor;
}

/** Records operations and their rules while a graph is built. Parameters are inputs of the graph like its data. */
export class Tape {
  readonly graph: GraphBuilder;
  readonly #operations: Operation[] = [];
  readonly #parameters: Parameter[] = [];

  constructor(name: string) {
    this.graph = new GraphBuilder(name);
  }

  /** A float32 input of the graph whose gradient `build` gives back. */
  parameter(name: string, shape: readonly number[]): Tensor {
    const tensor = { value: this.graph.input(name, "float32", dimensions(shape)), shape, needsGradient: true };
    this.#parameters.push({ name, tensor });
    return tensor;
  }

  /** An input of the graph that has no gradient. */
  data(name: string, type: "float32" | "int64", shape: readonly number[]): Tensor {
    return { value: this.graph.input(name, type, dimensions(shape)), shape, needsGradient: false };
  }

  /** A tensor that is the same in all runs. */
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

  /** The output of an operation, given each input with its rule. */
  record(value: Value, shape: readonly number[], inputs: Operation["inputs"]): Tensor {
    const wanted = inputs.filter(([input]) => input.needsGradient);
    const output = { value, shape, needsGradient: wanted.length > 0 };
    if (output.needsGradient) this.#operations.push({ output, inputs: wanted });
    return output;
  }

  /**
   * The graph with outputs `loss` and, of each parameter, `gradientName`.
   * @param loss - of shape `[1]`
   */
  build(loss: Tensor): Graph {
    this.graph.output("loss", loss.value, "float32", [1]);
    return this.pullback(loss, this.graph.floats([1]));
  }

  /**
   * The graph with an output `gradientName` of each parameter: what `seed`, the gradient of something by `output`, is by the
   * parameter. What is not needed for that is not computed.
   */
  pullback(output: Tensor, seed: Value): Graph {
    const gradients = this.#gradients(output, seed);
    for (const { name, tensor } of this.#parameters) {
      const gradient = gradients.get(tensor.value);
      if (!gradient) throw new TypeError(`Expected the loss to depend on parameter \`${name}\`, it does not`);
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

/** What `Tape.build` calls the gradient of a parameter. */
export function gradientName(parameter: string): string {
  return `gradient:${parameter}`;
}

/** @throws {TypeError} for tensors of any number of rows */
export function countOf(shape: readonly number[]): number {
  if (shape.includes(ANY_ROWS)) throw new TypeError("Expected a tensor of a known size, got one of any number of rows");
  return shape.reduce((product, size) => product * size, 1);
}

function dimensions(shape: readonly number[]): readonly (number | string)[] {
  return shape.map((size) => (size === ANY_ROWS ? "rows" : size));
}
