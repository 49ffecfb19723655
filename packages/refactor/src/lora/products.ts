// The products of a layer that experts of low rank change, by their names in graphs and in PEFT's files.

import type { DecoderWeights, Weight, WeightGroup } from "../tuning/decoder/decoder-weights.ts";

/** Product of one half of a layer. */
export interface Product {
  readonly half: "attention" | "ffn";
  /** Name in the graph of the half. */
  readonly name: string;
  /** Module of PEFT below a layer. */
  readonly module: string;
}

const ATTENTION: readonly Product[] = [
  { half: "attention", name: "query", module: "self_attn.q_proj" },
  { half: "attention", name: "key", module: "self_attn.k_proj" },
  { half: "attention", name: "value", module: "self_attn.v_proj" },
  { half: "attention", name: "output", module: "self_attn.o_proj" },
];

const FEED_FORWARD: readonly Product[] = [
  { half: "ffn", name: "expert.gate", module: "mlp.gate_proj" },
  { half: "ffn", name: "expert.up", module: "mlp.up_proj" },
  { half: "ffn", name: "expert.down", module: "mlp.down_proj" },
];

/** Lists the changed products. @param hasAttention - whether those of attention are among them */
export function changedProducts(hasAttention: boolean): readonly Product[] {
  return hasAttention ? [...ATTENTION, ...FEED_FORWARD] : FEED_FORWARD;
}

/** Returns the name of a weight of a layer's half in the graph of the whole model. */
export function graphName(layer: number, half: Product["half"], name: string): string {
  return `${layer}.${half}.${name}`;
}

/** Joins the weights of each half of a dense model's layer. */
export function halvesOf({
  attention,
  common,
  experts,
}: DecoderWeights["layers"][number]): ReadonlyMap<Product["half"], WeightGroup> {
  return new Map([
    ["attention", attention],
    ["ffn", new Map([...common, ...(experts[0] ?? [])])],
  ]);
}

/** Finds the weight that a product multiplies with, `[out, in]`. */
export function weightOf(layer: DecoderWeights["layers"][number], { half, name }: Product): Weight {
  const weight = halvesOf(layer).get(half)?.get(`${name}.weight`);
  if (!weight) throw new TypeError(`Expected the model to have a weight of ${name}, it has none`);
  return weight;
}
