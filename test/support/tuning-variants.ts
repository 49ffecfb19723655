// Decoders that differ in what tuning has to differentiate, and the comparison of gradients with differences.

import type { ModelConfig } from "@readme-moe/model";
import type { DecoderWeights, LayerWeights, Weight } from "../../packages/refactor/src/tuning/weights.ts";
import { randomNormal, seededRandom } from "./random.ts";
import type { TinyOptions } from "./tiny-read-me.ts";

export interface Variant extends TinyOptions {
  /** Attention has biases, and norms of each head's queries and keys. */
  readonly hasMoreAttention?: boolean;
  /** Norms are behind attention and FFN instead of in front. */
  readonly hasOutputNorms?: boolean;
  /** Norms are in front of attention and FFN and behind them. */
  readonly hasBothNorms?: boolean;
  /** Size of the norms of queries and keys. @default that of a head, for both */
  readonly qkNormSizes?: readonly [query: number, key: number];
  readonly decoder?: Partial<ModelConfig>;
}

export const VARIANTS: Readonly<Record<string, Variant>> = {
  "shared rows, other widths in each layer": {},
  biases: { hasBias: true, config: { mlp_bias: true } },
  "biases and head norms in attention": { hasMoreAttention: true },
  "norms behind, and over all heads": {
    hasMoreAttention: true,
    hasOutputNorms: true,
    qkNormSizes: [32, 16],
    decoder: { qkNorm: "all-heads" },
  },
  "factors of everything": {
    decoder: { embeddingScale: 1.5, residualScale: 0.6, attentionScale: 0.2, logitScale: 0.4 },
  },
  "RoPE in some layers": {
    decoder: { layers: [undefined, 0].map((angleSet) => ({ slidingWindow: undefined, angleSet, isMixture: false })) },
  },
  "Gemma 3's norms with an offset, GELU, windows and two sets of angles": {
    hasMoreAttention: true,
    hasBothNorms: true,
    decoder: {
      qkNorm: "head",
      normOffset: 1,
      activation: "gelu-tanh",
      embeddingScale: Math.sqrt(32),
      attentionScale: 0.2,
      ropes: [10, 1000].map((theta) => ({ type: "default", theta })),
      layers: [
        { slidingWindow: 3, angleSet: 0, isMixture: false },
        { slidingWindow: undefined, angleSet: 1, isMixture: false },
      ],
    },
  },
  "RoPE over a part of each head, with a factor": {
    decoder: {
      rotatedSize: 6,
      ropes: [
        {
          type: "longrope",
          theta: 100,
          shortFactors: [1, 1, 1],
          longFactors: [1, 2, 3],
          originalContextTokens: 4,
          attentionFactor: 1.3,
          isLong: true,
        },
      ],
    },
  },
  "a sliding window": {
    config: { model_type: "mistral", architectures: ["MistralForCausalLM"], sliding_window: 3 },
  },
};

/** Changes weights of a tiny model in place to those of a variant. */
export function withVariant({ layers }: DecoderWeights, options: Variant): void {
  if (options.hasMoreAttention) {
    layers.forEach((layer, index) => addMoreAttention(layer, index, options.qkNormSizes ?? [8, 8]));
  }
  if (options.hasOutputNorms) layers.forEach(moveNormsBehind);
  if (options.hasBothNorms) layers.forEach(addNormsBehind);
}

function addNormsBehind({ attention, common }: LayerWeights): void {
  for (const group of [attention, common]) {
    const { key, shape, values } = group.get("norm")!;
    const other = values.map((value, i) => value / 2 + 0.1 * Math.sin(i));
    group.set("output_norm", { key: `${key}.behind`, shape, values: other });
  }
}

function moveNormsBehind({ attention, common }: LayerWeights): void {
  for (const group of [attention, common]) {
    group.set("output_norm", group.get("norm")!);
    group.delete("norm");
  }
}

function addMoreAttention(
  { attention }: LayerWeights,
  layer: number,
  [querySize, keySize]: readonly [number, number],
): void {
  const random = seededRandom(layer + 8);
  const vector = (name: string, size: number, middle: number): void => {
    const values = Float32Array.from({ length: size }, () => middle + 0.3 * randomNormal(random));
    attention.set(name, { key: `backbone/model.layers.${layer}.self_attn.${name}`, shape: [size], values });
  };
  for (const name of ["query", "key", "value", "output"]) {
    vector(`${name}.bias`, attention.get(`${name}.weight`)!.shape[0]!, 0);
  }
  vector("query_norm", querySize, 1);
  vector("key_norm", keySize, 1);
}

/** Returns the relative error of the gradients' derivative along a random direction against differences of the loss. */
export function directionalError(
  parameters: readonly Weight[],
  gradients: ReadonlyMap<string, Float32Array>,
  loss: () => number,
): number {
  const random = seededRandom(7);
  const starts = parameters.map(({ values }) => values.slice());
  // The direction is mostly along the gradient: across it, both derivatives would be near zero.
  const directions = parameters.map(({ key }) => {
    const gradient = gradients.get(key)!;
    const size = Math.hypot(...gradient) / Math.sqrt(gradient.length);
    return gradient.map((slope) => Math.abs(slope) * (1 + 0.5 * randomNormal(random)) * Math.sign(slope) + 0.3 * size);
  });
  const length = Math.hypot(...directions.map((direction) => Math.hypot(...direction)));
  const at = (step: number): number => {
    parameters.forEach(({ values }, p) => {
      values.forEach((__, i) => (values[i] = starts[p]![i]! + (step / length) * directions[p]![i]!));
    });
    return loss();
  };
  const h = 0.01;
  const expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  at(0);
  let found = 0;
  directions.forEach((direction, p) => {
    const gradient = gradients.get(parameters[p]!.key)!;
    direction.forEach((value, i) => (found += (value / length) * gradient[i]!));
  });
  return Math.abs(found - expected) / Math.abs(expected);
}
