// Gives products the names that they have in checkpoints. Names in the file are not used: only `input_ids`, `logits`
// and `present.N.key` and `present.N.value` have the same ones in all exports, and each product follows from these.

import type { ModelConfig } from "../config/model-config.ts";
import { corrupt, unsupported } from "../files/errors.ts";
import type { RowRange } from "../tensor-store.ts";
import { type DataFlow, isProduct, type Source } from "./data-flow.ts";
import { describeNode } from "./graph-proto.ts";
import { numOutOf, type Product, type Table } from "./products.ts";

/** Some outputs of a product. */
export interface Part {
  readonly product: Product;
  readonly rows: RowRange;
}

/** The products of a layer. */
interface LayerProducts {
  readonly query: Part;
  readonly key: Part;
  readonly value: Part;
  readonly output: Part;
  readonly gate: Part;
  readonly up: Part;
  readonly down: Part;
}

export interface NamedProducts {
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
