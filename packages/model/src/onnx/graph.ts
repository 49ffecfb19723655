// A graph by its values: who makes each, and who takes it.

import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { describeNode, floatsOf, type GraphNode, type GraphProto, type StoredTensor } from "./proto.ts";
import { integerWeight, plainWeight, transposed, type Weight } from "./weight.ts";

/** Input of the graphs of older exports that chooses between a first step and one with a past. */
const CHOICE = "use_cache_branch";

interface Producer {
  readonly node: GraphNode;
  /** Index among the node's outputs. */
  readonly output: number;
}

/** A graph that has been checked: every value is made once, and nodes are in an order in which they can run. */
export class GraphIndex {
  readonly path: string;
  readonly nodes: readonly GraphNode[];
  readonly outputs: readonly string[];
  readonly #constants: ReadonlyMap<string, StoredTensor>;
  readonly #producers: ReadonlyMap<string, Producer>;
  readonly #consumers: ReadonlyMap<string, readonly GraphNode[]>;

  /**
   * @throws {ReadMeError} `ERR_FILE_CORRUPT` when a value is made twice or never, or from itself;
   *   `ERR_MODEL_UNSUPPORTED` for graphs with branches or loops
   */
  constructor(path: string, outer: GraphProto) {
    const graph = withoutChoice(path, outer);
    const constants = new Map<string, StoredTensor>();
    const producers = new Map<string, Producer>();
    const consumers = new Map<string, GraphNode[]>();
    const make = (name: string): void => {
      if (constants.has(name) || producers.has(name)) throw corrupt(path, `makes the value ${quoted(name)} twice`);
    };
    for (const tensor of graph.constants) {
      make(tensor.name);
      constants.set(tensor.name, tensor);
    }
    for (const node of graph.nodes) {
      for (const { graph: inner } of node.attributes.values()) {
        if (inner !== undefined) throw unsupported(path, `has a ${node.type} with a graph of its own`);
      }
      for (const input of node.inputs) {
        const takers = consumers.get(input);
        if (takers === undefined) consumers.set(input, [node]);
        else takers.push(node);
      }
      for (const [output, name] of node.outputs.entries()) {
        if (name === "") continue;
        make(name);
        producers.set(name, { node, output });
      }
    }
    this.path = path;
    this.nodes = inOrder(path, graph, { producers, consumers });
    this.outputs = graph.outputs;
    this.#constants = constants;
    this.#producers = producers;
    this.#consumers = consumers;
  }

  /** Finds a constant of the graph itself, or of a node `Constant`. */
  constant(name: string): StoredTensor | undefined {
    const stored = this.#constants.get(name);
    if (stored !== undefined) return stored;
    const node = this.#producers.get(name)?.node;
    return node?.type === "Constant" ? node.attributes.get("value")?.tensor : undefined;
  }

  producer(name: string): Producer | undefined {
    return this.#producers.get(name);
  }

  consumers(name: string): readonly GraphNode[] {
    return this.#consumers.get(name) ?? [];
  }
}

interface Links {
  readonly producers: ReadonlyMap<string, Producer>;
  readonly consumers: ReadonlyMap<string, readonly GraphNode[]>;
}

/**
 * Orders nodes so that each value is made before it is taken; tools append nodes anywhere.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when a value is never made, or depends on itself
 */
function inOrder(path: string, graph: GraphProto, { producers, consumers }: Links): readonly GraphNode[] {
  const known = new Set(["", ...graph.inputs, ...graph.constants.map(({ name }) => name)]);
  const missing = new Map<GraphNode, number>();
  for (const node of graph.nodes) {
    const lacking = node.inputs.filter((input) => !known.has(input));
    const unmade = lacking.find((input) => !producers.has(input));
    if (unmade !== undefined) throw corrupt(path, `takes the value ${quoted(unmade)}, which nothing makes`);
    missing.set(node, lacking.length);
  }
  // Takers are listed once for each input that takes the value.
  const ordered = graph.nodes.filter((node) => missing.get(node) === 0);
  for (const node of ordered) {
    for (const taker of node.outputs.flatMap((output) => (output === "" ? [] : (consumers.get(output) ?? [])))) {
      const left = (missing.get(taker) ?? 0) - 1;
      missing.set(taker, left);
      if (left === 0) ordered.push(taker);
    }
  }
  if (ordered.length === graph.nodes.length) return ordered;
  const [stuck] = graph.nodes.filter((node) => (missing.get(node) ?? 0) > 0);
  throw corrupt(path, `computes ${quoted(stuck?.outputs[0] ?? "")} from itself`);
}

/**
 * Replaces the choice of an older export by its branch with a past, which computes the same weights.
 * @throws {ReadMeError} `ERR_FILE_CORRUPT` when the branch does not have the choice's outputs
 */
function withoutChoice(path: string, graph: GraphProto): GraphProto {
  const choice = graph.nodes.find(({ type, inputs }) => type === "If" && inputs[0] === CHOICE);
  const branch = choice?.attributes.get("then_branch")?.graph;
  if (choice === undefined || branch === undefined) return graph;
  if (branch.outputs.length !== choice.outputs.length) {
    throw corrupt(path, `has a choice of ${choice.outputs.length} outputs, its branch has ${branch.outputs.length}`);
  }
  // A branch may return a constant or an outer value, so outputs of other names are copies.
  const copies = choice.outputs.flatMap((output, index): readonly GraphNode[] => {
    const own = branch.outputs[index] ?? "";
    if (own === output) return [];
    return [{ type: "Identity", domain: "", inputs: [own], outputs: [output], attributes: new Map() }];
  });
  const nodes = graph.nodes.flatMap((node) => (node === choice ? [...branch.nodes, ...copies] : [node]));
  return { ...graph, nodes, constants: [...graph.constants, ...branch.constants] };
}

// Finds the weights of a graph: constants, and constants behind nodes that only rename, turn or dequantise them.

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
