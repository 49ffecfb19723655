// Reverse-mode differentiation that appends to an ONNX graph: one graph computes a loss and its gradients.

import { GraphBuilder, operators, type Graph, type Value } from "@readme-moe/model";

/** A tensor of a graph whose shape is known when the graph is built. */
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
    const tensor = { value: this.graph.input(name, "float32", shape), shape, needsGradient: true };
    this.#parameters.push({ name, tensor });
    return tensor;
  }

  /** An input of the graph that has no gradient. */
  data(name: string, type: "float32" | "int64", shape: readonly number[]): Tensor {
    return { value: this.graph.input(name, type, shape), shape, needsGradient: false };
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
    const gradients = this.#gradients(loss);
    this.graph.output("loss", loss.value, "float32", [1]);
    for (const { name, tensor } of this.#parameters) {
      const gradient = gradients.get(tensor.value);
      if (!gradient) throw new TypeError(`Expected the loss to depend on parameter \`${name}\`, it does not`);
      this.graph.output(gradientName(name), gradient, "float32", tensor.shape);
    }
    return this.graph.build();
  }

  #gradients(loss: Tensor): ReadonlyMap<Value, Value> {
    const gradients = new Map<Value, Value>([[loss.value, this.graph.floats([1])]]);
    for (const { output, inputs } of this.#operations.toReversed()) {
      const gradient = gradients.get(output.value);
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

export function countOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
