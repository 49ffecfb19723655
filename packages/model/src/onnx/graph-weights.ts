// Finds the weights of a graph: constants, and constants behind nodes that only rename, turn or dequantise them.

import { unsupported } from "../files/errors.ts";
import { describeNode, type GraphNode } from "./graph-proto.ts";
import type { GraphIndex } from "./graph-index.ts";
import { floatsOf, type StoredTensor } from "./stored-tensor.ts";
import { integerWeight, plainWeight, transposed, type Weight } from "./weight.ts";

// Nodes from a constant to the product that takes it.
const MAX_STEPS = 8;

export class GraphWeights {
  readonly index: GraphIndex;
  readonly #known = new Map<string, Weight | undefined>();

  constructor(index: GraphIndex) {
    this.index = index;
  }

  /**
   * Finds the weight that a value is; `undefined` for values that are computed, and for scalars.
   * @throws {ReadMeError} when its parts do not fit together
   */
  of(name: string): Weight | undefined {
    if (this.#known.has(name)) return this.#known.get(name);
    const weight = this.#find(name, 0);
    this.#known.set(name, weight);
    return weight;
  }

  /** Finds the constant behind nodes that only change its shape. */
  tensor(name: string | undefined): StoredTensor | undefined {
    for (let [value, step] = [name, 0]; value !== undefined && step < MAX_STEPS; step++) {
      const constant = this.index.constant(value);
      if (constant !== undefined) return constant;
      const node: GraphNode | undefined = this.index.producer(value)?.node;
      value = node && RESHAPES.has(node.type) ? node.inputs[0] : undefined;
    }
    return undefined;
  }

  /** Finds a weight that a node needs. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when it is computed */
  needed(node: GraphNode, input: number): StoredTensor {
    const tensor = this.tensor(node.inputs[input]);
    if (tensor !== undefined) return tensor;
    throw unsupported(this.index.path, `${describeNode(node)} takes weights that are computed as the graph runs`);
  }

  /** Reads a small constant list of integers, such as a shape; `undefined` for other values. */
  integers(name: string | undefined): readonly number[] | undefined {
    const tensor = this.tensor(name);
    if (tensor === undefined || !("bytes" in tensor.data)) return undefined;
    const { bytes } = tensor.data;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (tensor.type === "I32")
      return Array.from({ length: bytes.byteLength / 4 }, (_, i) => view.getInt32(4 * i, true));
    if (tensor.type !== "I64") return undefined;
    return Array.from({ length: bytes.byteLength / 8 }, (_, i) => Number(view.getBigInt64(8 * i, true)));
  }

  /** Reads a small constant of floats; `undefined` for other values. */
  floats(name: string | undefined): Float32Array | undefined {
    const tensor = this.tensor(name);
    if (tensor === undefined || !("bytes" in tensor.data)) return undefined;
    return floatsOf(tensor.type, tensor.data.bytes);
  }

  #find(name: string, step: number): Weight | undefined {
    const constant = this.index.constant(name);
    if (constant !== undefined) return plainWeight(constant);
    const node = this.index.producer(name)?.node;
    const [first] = node?.inputs ?? [];
    if (node === undefined || first === undefined || step === MAX_STEPS) return undefined;
    if (node.type === "DequantizeLinear") return this.dequantized(node, first);
    if (node.type === "Identity" || node.type === "Cast") return this.#find(first, step + 1);
    if (node.type === "Transpose") {
      const perm = node.attributes.get("perm")?.integers ?? [1, 0];
      const weight = this.#find(first, step + 1);
      return weight && perm.length === 2 && perm[0] === 1 ? transposed(weight) : undefined;
    }
    const vector = RESHAPES.has(node.type) ? this.#find(first, step + 1) : undefined;
    return vector?.rows === 1 ? vector : undefined;
  }

  /** Makes the weight that a `DequantizeLinear` computes of the integers `name`; `undefined` if these are computed. */
  dequantized(node: GraphNode, name: string): Weight | undefined {
    const turning = this.index.producer(name)?.node;
    const isTurned = turning?.type === "Transpose";
    const values = this.tensor(isTurned ? turning.inputs[0] : name);
    if (values === undefined || values.shape.length !== 2) return undefined;
    const scales = this.needed(node, 1);
    const zeros = this.tensor(node.inputs[2]);
    const axis = (node.attributes.get("axis")?.integer ?? 1) & 1;
    const blockSize = node.attributes.get("block_size")?.integer ?? 0;
    const parts = { values, scales, zeros, axis: isTurned ? 1 - axis : axis, blockSize };
    const weight = integerWeight(this.index.path, parts);
    return isTurned ? transposed(weight) : weight;
  }
}

const RESHAPES: ReadonlySet<string> = new Set(["Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"]);
