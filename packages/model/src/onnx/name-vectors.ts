// Gives norms and biases the names that they have in checkpoints, by the products beside them.

import { unsupported } from "../files/errors.ts";
import { type DataFlow, isProduct } from "./data-flow.ts";
import { describeNode, type GraphNode } from "./graph-proto.ts";
import type { NamedProducts, Part } from "./name-products.ts";
import type { Product } from "./products.ts";
import type { Weight } from "./weight.ts";

/** An RMS norm: in one node, or the multiplication with its scales at the end of several. */
export interface Norm {
  readonly node: GraphNode;
  /** Value before the scales are applied. */
  readonly input: string;
  readonly scale: Weight;
}

/** The norms of a layer; those that the graph does not have are `undefined`. */
interface LayerNorms {
  readonly attention: Norm | undefined;
  readonly attentionOutput: Norm | undefined;
  readonly ffn: Norm | undefined;
  readonly ffnOutput: Norm | undefined;
  readonly query: Norm | undefined;
  readonly key: Norm | undefined;
}

export interface NamedNorms {
  readonly layers: readonly LayerNorms[];
  readonly final: Norm | undefined;
}

const SCALE_INPUTS: Readonly<Record<string, number>> = {
  SimplifiedLayerNormalization: 1,
  RMSNormalization: 1,
  SkipSimplifiedLayerNormalization: 2,
};
const THROUGH: ReadonlySet<string> = new Set(
  "Cast Identity Reshape DynamicQuantizeLinear QuantizeLinear DequantizeLinear".split(" "),
);

/** Finds the norms of all layers. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for norms of another kind */
export function nameNorms(flow: DataFlow, { layers, head }: NamedProducts): NamedNorms {
  const behind = normsBehind(flow);
  const after = ({ product, rows }: Part): Norm | undefined => {
    const own = behind.filter((one) => one.product === product && (one.from === undefined || one.from === rows.from));
    const [first, second] = own;
    if (second === undefined) return first?.norm;
    throw unsupported(flow.index.path, `${describeNode(second.norm.node)} is a second norm of the same product`);
  };
  return {
    layers: layers.map(({ query, key, output, gate, down }) => ({
      attention: normBefore(flow, query.product),
      attentionOutput: after(output),
      ffn: normBefore(flow, gate.product),
      ffnOutput: after(down),
      query: after(query),
      key: after(key),
    })),
    final: normBefore(flow, head),
  };
}

/** Finds the bias of each product: in its node, or added right behind it. */
export function biasOf(flow: DataFlow, { output, bias }: Product): Weight | undefined {
  if (bias !== undefined) return bias;
  for (let value = output; ;) {
    const takers = flow.index.consumers(value).filter(({ type }) => type !== "Shape");
    const [taker] = takers;
    if (taker === undefined || takers.length > 1) return undefined;
    if (taker.type === "Add") return vectorOf(flow, taker);
    if (taker.type !== "Cast" && taker.type !== "Identity") return undefined;
    value = taker.outputs[0] ?? "";
  }
}

/** Finds the norm whose output a product takes. */
function normBefore(flow: DataFlow, { input }: Product): Norm | undefined {
  for (let value = input; ;) {
    const node = flow.index.producer(value)?.node;
    if (node === undefined) return undefined;
    const norm = normOf(flow, node);
    if (norm !== undefined) return norm;
    if (!THROUGH.has(node.type)) return undefined;
    value = node.inputs[0] ?? "";
  }
}

/** A norm that takes nothing but the outputs of one product, or some of them. */
interface NormBehind {
  readonly product: Product;
  readonly from: number | undefined;
  readonly norm: Norm;
}

function normsBehind(flow: DataFlow): readonly NormBehind[] {
  return flow.index.nodes.flatMap((node) => {
    const norm = node.type.startsWith("Skip") ? undefined : normOf(flow, node);
    const sources = norm === undefined ? [] : flow.sources(norm.input, 1);
    const [source] = sources;
    if (norm === undefined || source === undefined || sources.length > 1 || !isProduct(source.from)) return [];
    return [{ product: source.from, from: source.rows?.from, norm }];
  });
}

function normOf(flow: DataFlow, node: GraphNode): Norm | undefined {
  const input = SCALE_INPUTS[node.type];
  if (input !== undefined) {
    const scale = flow.weights.of(node.inputs[input] ?? "");
    return scale === undefined ? undefined : { node, input: node.inputs[0] ?? "", scale };
  }
  if (node.type !== "Mul") return undefined;
  const scale = vectorOf(flow, node);
  const [first = "", second = ""] = node.inputs;
  return scale && { node, input: flow.weights.of(first) === undefined ? first : second, scale };
}

/** Finds the constant vector that a node adds or multiplies with. */
function vectorOf({ weights }: DataFlow, { inputs }: GraphNode): Weight | undefined {
  return inputs.map((input) => weights.of(input)).find((weight) => weight?.rows === 1);
}
