// Routers and experts of mixtures as llama.cpp's converter writes them: each product of all experts in one tensor.

import type { FeedForwardRefs, ModelWeights } from "@readme-moe/model";
import type { BlockType, OutputType } from "./write-gguf.ts";

const PRODUCTS: readonly (readonly [name: string, product: keyof FeedForwardRefs])[] = [
  ["ffn_gate_exps", "gate"],
  ["ffn_up_exps", "up"],
  ["ffn_down_exps", "down"],
];

/** Types of tensors. Those without a quantiser here get random blocks. */
export type MatrixType = OutputType | BlockType;

/** A tensor of a model that is converted. */
export interface Matrix {
  readonly name: string;
  readonly type: MatrixType;
  readonly shape: readonly number[];
  readonly floats: () => Promise<Float32Array>;
}

/** The weights that mixtures and dense models have in common. */
export function withoutExperts(weights: ModelWeights): ModelWeights {
  return { ...weights, layers: weights.layers.map((layer) => ({ ...layer, mixture: undefined })) };
}

/**
 * The tensors of all layers with a mixture.
 *
 * @param typeOf - finds the type of a tensor of experts by its shape
 */
export function expertTensors(
  { layers }: ModelWeights,
  typeOf: (shape: readonly number[]) => MatrixType,
): readonly Matrix[] {
  return layers.flatMap(({ mixture }, layer) => {
    if (!mixture) return [];
    const { router, experts } = mixture;
    const stacks = PRODUCTS.map(([name, product]): Matrix => {
      const shape = [experts.length, ...(experts[0]?.[product].weight.shape ?? [])];
      return {
        name: `blk.${layer}.${name}.weight`,
        type: typeOf(shape),
        shape,
        floats: () => stackOf(experts, product),
      };
    });
    const [, width = 0] = router.shape;
    const rows = (from: number, to: number) => (): Promise<Float32Array> =>
      router.store.readFloats(router.name, { from, to });
    const count = experts.length;
    const gate = { name: `blk.${layer}.ffn_gate_inp_shexp.weight`, shape: [width], floats: rows(count, count + 1) };
    // llama.cpp's quantiser leaves routers in float32.
    const gates = [
      { name: `blk.${layer}.ffn_gate_inp.weight`, shape: [count, width], floats: rows(0, count) },
      ...(router.shape[0] === count ? [] : [gate]),
    ];
    return [...gates.map((own): Matrix => ({ ...own, type: "F32" })), ...stacks];
  });
}

async function stackOf(experts: readonly FeedForwardRefs[], product: keyof FeedForwardRefs): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  for (const { [product]: linear } of experts) parts.push(await linear.weight.store.readFloats(linear.weight.name));
  const values = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    values.set(part, at);
    at += part.length;
  }
  return values;
}
