// Follows rows of numbers through a graph, from one product to the next. Shapes, masks and angles are left aside.

import type { ModelConfig } from "../config/model-config.ts";
import { quoted, unsupported } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import type { GraphIndex, GraphWeights } from "./graph.ts";
import { describeNode, type GraphNode } from "./proto.ts";
import { blockWeight, integerWeight, matrixShape, transposed, type Weight } from "./weight.ts";

/** A product or a table from which rows come. */
export interface Source {
  readonly from: Product | Table;
  /** The outputs that arrive, if the graph splits them; else all. */
  readonly rows: RowRange | undefined;
  /** Operators on one of the ways that change a value by itself, such as `Sigmoid`. */
  readonly passed: ReadonlySet<string>;
}

/** A step from a node's output to one of its inputs. */
interface Step {
  readonly input: string;
  readonly rows?: RowRange | undefined;
}

export function isProduct(from: Product | Table): from is Product {
  return "input" in from;
}

function namesIn(text: string): ReadonlySet<string> {
  return new Set(text.split(/\s+/));
}

const ACTIVATIONS: ReadonlySet<string> = namesIn(`Sigmoid QuickGelu Swish Silu Gelu FastGelu BiasGelu Erf Tanh
  Relu Elu Softplus HardSwish HardSigmoid LeakyRelu Mish Selu ThresholdedRelu`);

// Nodes whose later inputs are shapes, indices or angles.
const FIRST_ONLY: ReadonlySet<string> = namesIn(`Reshape Expand Slice Unsqueeze Squeeze Split Tile Gather
  RotaryEmbedding Flatten QuantizeLinear DequantizeLinear DynamicQuantizeLinear Transpose Pad CumSum`);
const NO_ROWS: ReadonlySet<string> = namesIn("Shape Size Range ConstantOfShape Constant");
// Nodes that keep the last axis as it is.
const KEEPS_COLUMNS: ReadonlySet<string> = new Set([...namesIn("Cast Identity Add Mul Sub Div Neg"), ...ACTIVATIONS]);
const ATTENTIONS: ReadonlySet<string> = namesIn("GroupQueryAttention MultiHeadAttention Attention");

// A decomposed graph of 100 layers takes some 10 million, with more than 10,000 nodes.
const MAX_STEPS = 2 ** 24;
const MAX_STEPS_PER_NODE = 4096;
const MAX_DEPTH = 4;

export class DataFlow {
  readonly index: GraphIndex;
  readonly weights: GraphWeights;
  readonly products: readonly Product[];
  readonly tables: readonly Table[];
  readonly #config: ModelConfig;
  readonly #live: ReadonlySet<GraphNode>;
  readonly #ends = new Map<string, Product | Table>();
  readonly #byInput = new Map<string, Product[]>();
  #stepsLeft: number;
  /** Number of `Split` nodes of equal parts that are being resolved. */
  #depth = 0;

  /** @throws {ReadMeError} when a product has weights that cannot be read */
  constructor(weights: GraphWeights, config: ModelConfig) {
    const { index } = weights;
    this.index = index;
    this.weights = weights;
    this.#config = config;
    this.#live = liveNodes(index);
    const found = index.nodes.filter((node) => this.isLive(node));
    this.tables = found.flatMap((node) => tableOf(weights, node) ?? []);
    this.products = found.flatMap((node) => productOf(weights, node) ?? []);
    this.#stepsLeft = Math.min(MAX_STEPS, MAX_STEPS_PER_NODE * index.nodes.length);
    for (const end of [...this.products, ...this.tables]) this.#ends.set(end.output, end);
    for (const product of this.products) {
      const known = this.#byInput.get(product.input);
      if (known === undefined) this.#byInput.set(product.input, [product]);
      else known.push(product);
    }
  }

  /** Tells whether an output depends on a node; exporters may leave others behind. */
  isLive(node: GraphNode): boolean {
    return this.#live.has(node);
  }

  /** Counts a step from node to node. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when there are too many */
  spend(): void {
    if (--this.#stepsLeft < 0) throw unsupported(this.index.path, "has a graph that is too entangled to follow");
  }

  /** Finds the products and tables from which the rows of a value come, up to `most` and one more. */
  sources(value: string, most: number = Infinity): readonly Source[] {
    const found = new Map<string, { from: Product | Table; rows: RowRange | undefined; passed: Set<string> }>();
    const seen = new Set<string>();
    const todo: { value: string; rows: RowRange | undefined; passed: string | undefined }[] = [
      { value, rows: undefined, passed: undefined },
    ];
    for (let next = todo.pop(); next !== undefined && found.size <= most; next = todo.pop()) {
      this.spend();
      const { rows } = next;
      const key = `${rows?.from},${rows?.to},${next.passed}:${next.value}`;
      if (seen.has(key)) continue;
      seen.add(key);
      const end = this.#ends.get(next.value);
      if (end !== undefined) {
        const place = `${rows?.from},${rows?.to}:${next.value}`;
        const known = found.get(place) ?? { from: end, rows, passed: new Set() };
        if (next.passed !== undefined) known.passed.add(next.passed);
        found.set(place, known);
        continue;
      }
      const producer = this.index.producer(next.value);
      if (producer === undefined) continue;
      const passed = ACTIVATIONS.has(producer.node.type) ? producer.node.type : next.passed;
      for (const step of this.#steps(producer.node, producer.output, rows)) {
        todo.push({ value: step.input, rows: step.rows, passed });
      }
    }
    return [...found.values()];
  }

  /** Finds the products that take a value next. */
  takers(value: string): readonly Product[] {
    const found = new Set<Product>();
    const seen = new Set<string>();
    const todo = [value];
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      this.spend();
      if (seen.has(next)) continue;
      seen.add(next);
      const own = this.#byInput.get(next) ?? [];
      for (const product of own) found.add(product);
      for (const node of this.index.consumers(next)) {
        if (NO_ROWS.has(node.type) || own.some((product) => product.node === node)) continue;
        // Quantised rows come with a scale and a zero point, which pass by the product.
        const outputs = node.type === "DynamicQuantizeLinear" ? node.outputs.slice(0, 1) : node.outputs;
        todo.push(...outputs.filter((output) => output !== ""));
      }
    }
    return [...found];
  }

  #steps(node: GraphNode, output: number, rows: RowRange | undefined): readonly Step[] {
    if (NO_ROWS.has(node.type)) return [];
    if (ATTENTIONS.has(node.type)) return this.#attentionSteps(node, output);
    const [first = ""] = node.inputs;
    if (node.type === "Split" || node.type === "Slice") {
      const own = node.type === "Split" ? this.#splitRows(node, output) : this.#sliceRows(node);
      if (own === undefined || rows === undefined) return [{ input: first, rows: own }];
      return [{ input: first, rows: { from: own.from + rows.from, to: own.from + rows.to } }];
    }
    if (FIRST_ONLY.has(node.type)) return [{ input: first }];
    const inputs = node.type === "Where" ? node.inputs.slice(1) : node.inputs;
    const kept = KEEPS_COLUMNS.has(node.type) ? rows : undefined;
    return inputs.map((input) => ({ input, rows: kept }));
  }

  /** Queries, keys and values; one input may hold them all. Grown keys are the second output, values the third. */
  #attentionSteps(node: GraphNode, output: number): readonly Step[] {
    const [query = "", key = "", value = ""] = node.inputs;
    const { numHeads, numKvHeads, headSize } = this.#config;
    if (node.type === "MultiHeadAttention" && (node.inputs[3] ?? "") !== "") {
      throw unsupported(this.index.path, `${describeNode(node)} adds a bias of its own`);
    }
    if (key === "" || value === "") {
      const queries = numHeads * headSize;
      const keys = numKvHeads * headSize;
      const from = [0, queries, queries + keys][output] ?? 0;
      return [{ input: query, rows: { from, to: from + (output === 0 ? queries : keys) } }];
    }
    if (output === 0) return [{ input: query }, { input: key }, { input: value }];
    return [{ input: output === 1 ? key : value }];
  }

  /** Finds the columns of one output of a `Split`; `undefined` along another axis than the last. */
  #splitRows(node: GraphNode, output: number): RowRange | undefined {
    const axis = node.attributes.get("axis")?.integer ?? 0;
    if (axis !== -1 && axis !== 2) return undefined;
    const sizes = this.weights.integers(node.inputs[1]) ?? node.attributes.get("split")?.integers;
    const from = sizes?.slice(0, output).reduce((sum, size) => sum + size, 0);
    const size = sizes?.[output];
    if (from !== undefined && size !== undefined) return { from, to: from + size };
    // Equal parts: their size follows from the product.
    if (this.#depth === MAX_DEPTH) return undefined;
    this.#depth++;
    const [source] = this.sources(node.inputs[0] ?? "", 1);
    this.#depth--;
    if (source === undefined || !isProduct(source.from)) return undefined;
    const each = source.from.weight.isTransposed ? source.from.weight.columns : source.from.weight.rows;
    const part = Math.ceil(each / node.outputs.length);
    return { from: output * part, to: Math.min(each, (output + 1) * part) };
  }

  #sliceRows(node: GraphNode): RowRange | undefined {
    const [, starts, ends, axes, steps] = node.inputs.map((input) => this.weights.integers(input));
    const [axis] = axes ?? [];
    if (steps?.some((step) => step !== 1)) {
      throw unsupported(this.index.path, `${describeNode(node)} takes every ${steps.join()}th value`);
    }
    const [from] = starts ?? [];
    const [to] = ends ?? [];
    if ((axis !== -1 && axis !== 2) || from === undefined || to === undefined || from < 0) return undefined;
    return { from, to };
  }
}

function liveNodes(index: GraphIndex): ReadonlySet<GraphNode> {
  const live = new Set<GraphNode>();
  const todo = [...index.outputs];
  for (let value = todo.pop(); value !== undefined; value = todo.pop()) {
    const node = index.producer(value)?.node;
    if (node === undefined || live.has(node)) continue;
    live.add(node);
    todo.push(...node.inputs);
  }
  return live;
}

// Finds the products and tables of a graph: nodes that multiply rows with a weight, or look up its rows.

/** `output = input · weightᵀ + bias` */
export interface Product {
  readonly node: GraphNode;
  readonly input: string;
  readonly output: string;
  /** `[out, in]` as in checkpoints. */
  readonly weight: Weight;
  /** Bias that is part of the node. */
  readonly bias: Weight | undefined;
}

/** Rows of a weight by token ids. */
export interface Table {
  readonly node: GraphNode;
  readonly output: string;
  readonly weight: Weight;
}

/** Operators with weights that are not read, with what to do instead. */
const REFUSED: Readonly<Record<string, string>> = {
  MatMulBnb4: "4 bits in the format of bitsandbytes; use q4",
  MatMulFpQ4: "4 bits in an old format; use q4",
  MatMulBlockQuantized: "blocks in an old format; use q4",
  MoE: "a mixture of experts, which is not read from ONNX files",
  QMoE: "a mixture of experts, which is not read from ONNX files",
  QLinearMatMul: "static quantisation; use q8, which quantises as the graph runs",
  QGemm: "static quantisation; use q8, which quantises as the graph runs",
  QAttention: "quantised attention with weights of its own",
  PackedAttention: "attention with weights of its own",
  EmbedLayerNormalization: "an embedding of another kind of model",
};

type Finder = (weights: GraphWeights, node: GraphNode) => Product | undefined;

const FINDERS: Readonly<Record<string, Finder>> = {
  MatMul: (weights, node) => plainProduct(weights, node, false),
  FusedMatMul: fusedProduct,
  Gemm: gemm,
  MatMulNBits: blockProduct,
  MatMulInteger: integerProduct,
  MatMulIntegerToFloat: (weights, node) => scaledProduct(weights, node, { scale: 3, zero: 5, bias: 6 }),
  DynamicQuantizeMatMul: (weights, node) => scaledProduct(weights, node, { scale: 2, zero: 3, bias: 4 }),
};

/**
 * Finds what a node multiplies its rows with; `undefined` for nodes without a weight.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED`, naming the operator, when its weights cannot be read
 */
function productOf(weights: GraphWeights, node: GraphNode): Product | undefined {
  const why = REFUSED[node.type];
  if (why !== undefined) throw unsupported(weights.index.path, `${describeNode(node)} is ${why}`);
  if (node.type === "Attention" && node.domain !== "") {
    throw unsupported(weights.index.path, `${describeNode(node)} is attention with weights of its own`);
  }
  return FINDERS[node.type]?.(weights, node);
}

/** Finds the table that a node looks token ids up in; `undefined` for other nodes. */
function tableOf(weights: GraphWeights, node: GraphNode): Table | undefined {
  if (node.type !== "Gather" && node.type !== "GatherBlockQuantized") return undefined;
  return comesFromTokens(weights, node.inputs[1] ?? "") ? lookedUp(weights, node) : undefined;
}

/** Finds the table that a node looks rows up in. @throws {ReadMeError} for one that is not read */
export function lookedUp(weights: GraphWeights, node: GraphNode): Table {
  const [table = ""] = node.inputs;
  const { path } = weights.index;
  if (node.type === "GatherBlockQuantized") return { node, output: outputOf(node), weight: blockTable(weights, node) };
  if ((node.attributes.get("axis")?.integer ?? 0) !== 0) throw unsupported(path, `${describeNode(node)} is by column`);
  const weight = weights.of(table);
  if (weight !== undefined) return { node, output: outputOf(node), weight };
  const taker = weights.index.consumers(outputOf(node)).find(({ type }) => type === "DequantizeLinear");
  const dequantised = taker && weights.dequantized(taker, table);
  if (taker === undefined || dequantised === undefined) {
    throw unsupported(path, `${describeNode(node)} looks rows up in ${quoted(table)}, which is no table that is read`);
  }
  return { node, output: outputOf(taker), weight: dequantised };
}

function comesFromTokens({ index }: GraphWeights, ids: string): boolean {
  let value: string | undefined = ids;
  for (let step = 0; step < 8 && value !== undefined; step++) {
    if (value === "input_ids") return true;
    const node: GraphNode | undefined = index.producer(value)?.node;
    value =
      node && ["Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"].includes(node.type) ? node.inputs[0] : undefined;
  }
  return false;
}

function outputOf({ outputs }: GraphNode): string {
  return outputs[0] ?? "";
}

/** Finds a product of computed rows with a constant. @param isRowsOut - whether the constant's rows are outputs */
function plainProduct(weights: GraphWeights, node: GraphNode, isRowsOut: boolean): Product | undefined {
  const [input = "", second = ""] = node.inputs;
  const weight = weights.of(second);
  if (weight === undefined || weight.rows === 1 || weights.of(input) !== undefined) return undefined;
  const matrix = isRowsOut ? weight : transposed(weight);
  return { node, input, output: outputOf(node), weight: matrix, bias: undefined };
}

function fusedProduct(weights: GraphWeights, node: GraphNode): Product | undefined {
  const product = plainProduct(weights, node, node.attributes.get("transB")?.integer === 1);
  const isPlain = ["transA", "transBatchA", "transBatchB"].every((name) => !node.attributes.get(name)?.integer);
  if (product === undefined || (isPlain && (node.attributes.get("alpha")?.float ?? 1) === 1)) return product;
  throw unsupported(weights.index.path, `${describeNode(node)} scales or turns a product with weights`);
}

function gemm(weights: GraphWeights, node: GraphNode): Product | undefined {
  const product = plainProduct(weights, node, node.attributes.get("transB")?.integer === 1);
  if (product === undefined) return undefined;
  const factor = (name: string): number => node.attributes.get(name)?.float ?? 1;
  const third = node.inputs[2] ?? "";
  const bias = third === "" ? undefined : weights.of(third);
  const isPlain = !node.attributes.get("transA")?.integer && factor("alpha") === 1;
  if (isPlain && (third === "" || (bias !== undefined && factor("beta") === 1))) return { ...product, bias };
  throw unsupported(weights.index.path, `${describeNode(node)} scales or turns a product with weights`);
}

function blockProduct(weights: GraphWeights, node: GraphNode): Product {
  const size = (name: string, fallback: number): number => node.attributes.get(name)?.integer ?? fallback;
  const groups = node.inputs[4] ?? "";
  if (groups !== "") throw unsupported(weights.index.path, `${describeNode(node)} has its inputs in another order`);
  const weight = blockWeight(weights.index.path, {
    values: weights.needed(node, 1),
    scales: weights.needed(node, 2),
    zeros: optional(weights, node, 3),
    rows: size("N", 0),
    columns: size("K", 0),
    bits: size("bits", 4),
    blockSize: size("block_size", 32),
    isPadded: true,
  });
  return { node, input: node.inputs[0] ?? "", output: outputOf(node), weight, bias: weights.of(node.inputs[5] ?? "") };
}

function blockTable(weights: GraphWeights, node: GraphNode): Weight {
  const integer = (name: string, fallback: number): number => node.attributes.get(name)?.integer ?? fallback;
  const scales = weights.needed(node, 2);
  const values = weights.needed(node, 0);
  const isNibbles = values.type === "U4" || values.type === "I4";
  const bits = isNibbles ? 4 : integer("bits", 4);
  const [rows = 0, last = 0] = scales.shape;
  const blockSize = integer("block_size", 128);
  // A reshaped head's blocks have three axes; whole rows follow from all values.
  const numValues = values.shape.reduce((product, size) => product * size, isNibbles ? 1 : 8 / bits);
  const columns = numValues / rows;
  const isByRow = integer("gather_axis", 0) === 0 && [1, -1].includes(integer("quantize_axis", 1));
  if (!isByRow || scales.shape.length !== 2 || Math.ceil(columns / blockSize) !== last) {
    throw unsupported(weights.index.path, `${describeNode(node)} has its blocks along another axis than rows`);
  }
  const zeros = optional(weights, node, 3);
  return blockWeight(weights.index.path, { values, scales, zeros, rows, columns, bits, blockSize, isPadded: false });
}

function optional(weights: GraphWeights, node: GraphNode, input: number) {
  const name = node.inputs[input] ?? "";
  return name === "" ? undefined : weights.needed(node, input);
}

/** Finds an integer product with the nodes that scale it: `Cast`, then `Mul` with both scales multiplied. */
function integerProduct(weights: GraphWeights, node: GraphNode): Product | undefined {
  const { index } = weights;
  if (weights.tensor(node.inputs[1]) === undefined) return undefined;
  const follow = (value: string): GraphNode | undefined => {
    const [taker, ...others] = index.consumers(value);
    return others.length === 0 ? taker : undefined;
  };
  let value = outputOf(node);
  let taker = follow(value);
  if (taker?.type === "Cast") taker = follow((value = outputOf(taker)));
  const both = taker?.type === "Mul" ? taker.inputs.find((input) => input !== value) : undefined;
  const scaler = both === undefined ? undefined : index.producer(both)?.node;
  // The weight's scale is the second; the first is constant, too, if the rows are a quantised table's.
  const constants = scaler?.inputs.filter((input) => weights.tensor(input) !== undefined) ?? [];
  const scale = scaler?.type === "Mul" ? constants.at(-1) : undefined;
  if (taker === undefined || scale === undefined) {
    throw unsupported(index.path, `${describeNode(node)} is not scaled by one constant, as dynamic quantisation does`);
  }
  const scales = weights.tensor(scale);
  return { ...quantised(weights, node, { scales, zero: 3 }), output: outputOf(taker), bias: undefined };
}

function scaledProduct(
  weights: GraphWeights,
  node: GraphNode,
  { scale, zero, bias }: Readonly<Record<"scale" | "zero" | "bias", number>>,
): Product | undefined {
  if (weights.tensor(node.inputs[1]) === undefined) return undefined;
  const product = quantised(weights, node, { scales: weights.needed(node, scale), zero });
  return { ...product, output: outputOf(node), bias: weights.of(node.inputs[bias] ?? "") };
}

function quantised(
  weights: GraphWeights,
  node: GraphNode,
  { scales, zero }: { readonly scales: ReturnType<GraphWeights["tensor"]>; readonly zero: number },
): Pick<Product, "node" | "input" | "weight"> {
  if (scales === undefined) throw unsupported(weights.index.path, `${describeNode(node)} has no constant scale`);
  const values = weights.needed(node, 1);
  const zeros = optional(weights, node, zero);
  const weight = integerWeight(weights.index.path, { values, scales, zeros, axis: 1, blockSize: 0 });
  return { node, input: node.inputs[0] ?? "", weight: transposed(weight) };
}

/** Number of outputs of a product. */
export function numOutOf({ weight }: Product): number {
  return matrixShape(weight)[0];
}
