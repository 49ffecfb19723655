// Finds the products and tables of a graph: nodes that multiply rows with a weight, or look up its rows.

import { quoted, unsupported } from "../files/errors.ts";
import { describeNode, type GraphNode } from "./graph-proto.ts";
import type { GraphWeights } from "./graph-weights.ts";
import { blockWeight, integerWeight, matrixShape, transposed, type Weight } from "./weight.ts";

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
export function productOf(weights: GraphWeights, node: GraphNode): Product | undefined {
  const why = REFUSED[node.type];
  if (why !== undefined) throw unsupported(weights.index.path, `${describeNode(node)} is ${why}`);
  if (node.type === "Attention" && node.domain !== "") {
    throw unsupported(weights.index.path, `${describeNode(node)} is attention with weights of its own`);
  }
  return FINDERS[node.type]?.(weights, node);
}

/** Finds the table that a node looks token ids up in; `undefined` for other nodes. */
export function tableOf(weights: GraphWeights, node: GraphNode): Table | undefined {
  if (node.type !== "Gather" && node.type !== "GatherBlockQuantized") return undefined;
  const [table = "", ids = ""] = node.inputs;
  if (!comesFromTokens(weights, ids)) return undefined;
  const { path } = weights.index;
  if (node.type === "GatherBlockQuantized") return { node, output: outputOf(node), weight: blockTable(weights, node) };
  if ((node.attributes.get("axis")?.integer ?? 0) !== 0) throw unsupported(path, `${describeNode(node)} is by column`);
  const weight = weights.of(table);
  if (weight !== undefined) return { node, output: outputOf(node), weight };
  const taker = weights.index.consumers(outputOf(node)).find(({ type }) => type === "DequantizeLinear");
  const dequantised = taker && weights.dequantized(taker, table);
  if (taker === undefined || dequantised === undefined) {
    throw unsupported(
      path,
      `${describeNode(node)} looks tokens up in ${quoted(table)}, which is no table that is read`,
    );
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
