// Gives products the names that they have in checkpoints. Names in the file are not used: only `input_ids`, `logits`
// and `present.N.key` and `present.N.value` have the same ones in all exports, and each product follows from these.

import type { ModelConfig } from "../config/model-config.ts";
import { corrupt, unsupported } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import { type DataFlow, isProduct, numOutOf, type Product, type Source, type Table } from "./data-flow.ts";
import { describeNode, type GraphNode } from "./proto.ts";
import type { Weight } from "./weight.ts";

/** Some outputs of a product. */
export interface Part {
  readonly product: Product;
  readonly rows: RowRange;
}

interface LayerProducts {
  readonly query: Part;
  readonly key: Part;
  readonly value: Part;
  readonly output: Part;
  readonly gate: Part;
  readonly up: Part;
  readonly down: Part;
}

interface NamedProducts {
  readonly embedding: Table;
  readonly head: Product;
  readonly layers: readonly LayerProducts[];
}

type AttentionParts = Pick<LayerProducts, "query" | "key" | "value" | "output">;

/**
 * Names all products.
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when the graph is no decoder of the kind that is read, or has a past
 *   that does not come in and go out; `ERR_FILE_CORRUPT` when it has another number of layers than the config
 */
export function nameProducts(flow: DataFlow, config: ModelConfig): NamedProducts {
  const { path, outputs } = flow.index;
  const numLayers = outputs.filter((output) => /^present\.\d+\.key$/.test(output)).length;
  if (numLayers !== config.numLayers) {
    const found = `has keys and values of ${numLayers} layers as outputs (present.N.key), config.json promises`;
    throw corrupt(path, `${found} ${config.numLayers}; export it for text generation with a past`);
  }
  const [embedding, ...others] = flow.tables;
  if (embedding === undefined || others.some(({ weight }) => weight.values !== embedding.weight.values)) {
    throw unsupported(path, `looks token ids up in ${flow.tables.length} tables, a decoder has one`);
  }
  const head = only(flow, "logits", "the head").product;
  const attentions = Array.from({ length: numLayers }, (_, layer) => attentionOf(flow, layer));
  const named = new Set([head, ...attentions.flatMap((parts) => Object.values(parts).map(({ product }) => product))]);
  const levels = levelsOf(flow, attentions);
  const rest = attentions.map((): Product[] => []);
  for (const product of flow.products) if (!named.has(product)) rest[levels.get(product.input) ?? -1]?.push(product);
  const layers = attentions.map((attention, layer) => ({
    ...attention,
    ...feedForwardOf(flow, rest[layer] ?? [], layer),
  }));
  return { embedding, head, layers };
}

function attentionOf(flow: DataFlow, layer: number): AttentionParts {
  const key = only(flow, `present.${layer}.key`, `the keys of layer ${layer}`);
  const value = only(flow, `present.${layer}.value`, `the values of layer ${layer}`);
  const takers = flow.takers(value.product.output);
  const [product, ...others] = takers;
  if (product === undefined || others.length > 0) {
    throw unsupported(flow.index.path, `multiplies the values of layer ${layer} with ${takers.length} weights, not 1`);
  }
  const sources = partsOf(flow, flow.sources(product.input), `attention of layer ${layer}`);
  const queries = sources.filter((part) => !isSamePart(part, key) && !isSamePart(part, value));
  const [query] = queries;
  if (query === undefined || queries.length > 1) {
    throw unsupported(flow.index.path, `computes attention of layer ${layer} from ${sources.length} products, not 3`);
  }
  return { query, key, value, output: whole(product) };
}

function isSamePart(a: Part, b: Part): boolean {
  return a.product === b.product && a.rows.from === b.rows.from;
}

/** Finds gate, up and down among the products of a layer behind attention. */
function feedForwardOf(
  flow: DataFlow,
  own: readonly Product[],
  layer: number,
): Pick<LayerProducts, "gate" | "up" | "down"> {
  const { path } = flow.index;
  const isOther = own.length > 3;
  const downs = (isOther ? [] : own).flatMap((product) => {
    const sources = flow.sources(product.input, 2);
    const isInner = sources.every(({ from }) => isProduct(from) && own.includes(from));
    return isInner ? [{ product, sources }] : [];
  });
  const [down, ...others] = downs;
  if (down === undefined || others.length > 0) {
    const what = `has ${own.length} products behind attention in layer ${layer}`;
    throw unsupported(path, `${what}; an FFN has gate, up and down, and mixtures of experts are not read`);
  }
  const gates = down.sources.filter(({ passed }) => passed.size > 0);
  const ups = down.sources.filter(({ passed }) => passed.size === 0);
  const [gate] = partsOf(flow, gates, `the gate of layer ${layer}`);
  const [up] = partsOf(flow, ups, `the FFN of layer ${layer}`);
  if (gate === undefined || up === undefined || gates.length + ups.length !== 2) {
    throw unsupported(path, `has an FFN in layer ${layer} without gate and up`);
  }
  refuseActivations(path, gates);
  return { gate, up, down: whole(down.product) };
}

const SILU: ReadonlySet<string> = new Set(["Sigmoid", "QuickGelu", "Swish", "Silu"]);

function refuseActivations(path: string, gates: readonly Source[]): void {
  for (const { from, passed } of gates) {
    const other = Array.from(passed).find((type) => !SILU.has(type));
    if (other !== undefined)
      throw unsupported(path, `${describeNode(from.node)} is the gate of ${other}, expected SiLU`);
  }
}

/** Computes, for each value, the last layer whose attention is in it. */
function levelsOf({ index }: DataFlow, attentions: readonly AttentionParts[]): ReadonlyMap<string, number> {
  const fixed = new Map(attentions.map(({ output }, layer) => [output.product.output, layer]));
  const levels = new Map<string, number>();
  for (const { inputs, outputs } of index.nodes) {
    let level = -1;
    for (const input of inputs) level = Math.max(level, levels.get(input) ?? -1);
    for (const output of outputs) levels.set(output, fixed.get(output) ?? level);
  }
  return levels;
}

/** Finds the one product from which a value comes. */
function only(flow: DataFlow, value: string, what: string): Part {
  const sources = flow.sources(value, 1);
  const [part] = partsOf(flow, sources, what);
  if (part !== undefined && sources.length === 1) return part;
  throw unsupported(flow.index.path, `computes ${what} (${value}) from ${sources.length} products, not 1`);
}

function partsOf(flow: DataFlow, sources: readonly Source[], what: string): readonly Part[] {
  return sources.map(({ from, rows }) => {
    if (!isProduct(from)) throw unsupported(flow.index.path, `computes ${what} from the embedding without a product`);
    const part = whole(from);
    if (rows === undefined) return part;
    return { product: from, rows: { from: rows.from, to: Math.min(rows.to, part.rows.to) } };
  });
}

function whole(product: Product): Part {
  return { product, rows: { from: 0, to: numOutOf(product) } };
}

// Gives norms and biases the names that they have in checkpoints, by the products beside them.

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

interface NamedNorms {
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

function normsBehind(
  flow: DataFlow,
): readonly { readonly product: Product; readonly from: number | undefined; readonly norm: Norm }[] {
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
