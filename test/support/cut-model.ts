// A small dense model with random weights, and a Read-ME model that was cut out of it.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeF16, writeReadMeFolder, writeSafetensors, type SafetensorsInput } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";
import { ROUTER_SECTION } from "./tiny-read-me.ts";

const HIDDEN = 64;
const FFN = 160;
const VOCABULARY = 96;
const LAYERS = 2;
const ROUTER_SIZE = 16;

const CONFIG = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: VOCABULARY,
  hidden_size: HIDDEN,
  intermediate_size: FFN,
  num_hidden_layers: LAYERS,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  max_position_embeddings: 256,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
} as const;

type Matrices = ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

function denseMatrices(seed: number): Matrices {
  const random = seededRandom(seed);
  const matrices = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  const add = (name: string, shape: readonly number[], scale: number, mean = 0): void => {
    const values = Float32Array.from(
      { length: shape.reduce((a, b) => a * b, 1) },
      () => mean + scale * randomNormal(random),
    );
    matrices.set(`${name}.weight`, { shape, values });
  };
  add("model.embed_tokens", [VOCABULARY, HIDDEN], 1);
  for (let layer = 0; layer < LAYERS; layer++) {
    const prefix = `model.layers.${layer}`;
    add(`${prefix}.input_layernorm`, [HIDDEN], 0.1, 1);
    for (const [name, size] of [
      ["q", HIDDEN],
      ["k", HIDDEN / 2],
      ["v", HIDDEN / 2],
      ["o", HIDDEN],
    ] as const) {
      add(`${prefix}.self_attn.${name}_proj`, [size, HIDDEN], 0.1);
    }
    add(`${prefix}.post_attention_layernorm`, [HIDDEN], 0.1, 1);
    for (const name of ["gate", "up"]) add(`${prefix}.mlp.${name}_proj`, [FFN, HIDDEN], 0.1);
    add(`${prefix}.mlp.down_proj`, [HIDDEN, FFN], 0.1);
  }
  add("model.norm", [HIDDEN], 0.1, 1);
  return matrices;
}

function input(name: string, shape: readonly number[], values: Float32Array, type: "F32" | "F16"): SafetensorsInput {
  const bytes = type === "F16" ? encodeF16(values) : new Uint8Array(values.slice().buffer);
  return { name, type, shape, bytes: async () => bytes };
}

/** Writes a dense checkpoint; the same weights for the same seed, rounded to `type`. */
export async function writeDense(
  path: string,
  { seed = 1, type = "F32" }: { readonly seed?: number; readonly type?: "F32" | "F16" } = {},
): Promise<void> {
  await mkdir(path, { recursive: true });
  await writeFile(join(path, "config.json"), JSON.stringify(CONFIG));
  const tensors = [...denseMatrices(seed)].map(([name, { shape, values }]) => input(name, shape, values, type));
  await writeSafetensors(join(path, "model.safetensors"), tensors);
}

export interface CutOptions {
  /** Of the dense model. */
  readonly seed?: number;
  readonly sharedSize?: number;
  /** Noise in down-projections, as a refit makes it. @default 0.03 */
  readonly refit?: number;
  /** Noise in all other matrices and norms. @default 0 */
  readonly tuned?: number;
  /** Of the noise; full by default. */
  readonly rank?: number;
  /** Neurons of each expert in another order. */
  readonly isShuffled?: boolean;
  readonly hasRouter?: boolean;
}

/** Writes a Read-ME folder of three experts of 72 neurons in half precision. @returns the neurons of `[layer][expert]` */
export async function writeCut(path: string, options: CutOptions = {}): Promise<readonly (readonly number[])[][]> {
  const { seed = 1, sharedSize = 0, refit = 0.03, tuned = 0, rank, isShuffled = false, hasRouter = true } = options;
  const dense = denseMatrices(seed);
  const random = seededRandom(seed + 100);
  const noise = (count: number): Float32Array => Float32Array.from({ length: count }, () => randomNormal(random));
  const changed = (rows: number, columns: number, values: Float32Array, scale: number): Float32Array => {
    if (scale === 0) return values;
    if (rank === undefined) return values.map((value) => value + scale * randomNormal(random));
    const [left, right] = [noise(rows * rank), noise(rank * columns)];
    return values.map((value, at) => {
      let sum = 0;
      for (let k = 0; k < rank; k++) {
        sum += (left[Math.floor(at / columns) * rank + k] as number) * (right[k * columns + (at % columns)] as number);
      }
      return value + (scale * sum) / Math.sqrt(rank);
    });
  };
  const valuesOf = (name: string): Float32Array => (dense.get(name) as { values: Float32Array }).values;
  const part = (layer: number, neurons: readonly number[], order: readonly number[]): SafetensorsInput[] => {
    const prefix = `model.layers.${layer}.mlp`;
    const size = neurons.length;
    const rows = ["gate", "up"].map((kind) => {
      const all = valuesOf(`${prefix}.${kind}_proj.weight`);
      const own = Float32Array.from({ length: size * HIDDEN }, (_, at) => {
        return all[(neurons[Math.floor(at / HIDDEN)] as number) * HIDDEN + (at % HIDDEN)] as number;
      });
      const made = changed(size, HIDDEN, own, tuned);
      const ordered = made.map(
        (_, at) => made[(order[Math.floor(at / HIDDEN)] as number) * HIDDEN + (at % HIDDEN)] as number,
      );
      return input(`${prefix}.${kind}_proj.weight`, [size, HIDDEN], ordered, "F16");
    });
    const all = valuesOf(`${prefix}.down_proj.weight`);
    const own = Float32Array.from({ length: HIDDEN * size }, (_, at) => {
      return all[Math.floor(at / size) * FFN + (neurons[at % size] as number)] as number;
    });
    const made = changed(HIDDEN, size, own, refit);
    const ordered = made.map((_, at) => made[Math.floor(at / size) * size + (order[at % size] as number)] as number);
    const bias = Float32Array.from({ length: HIDDEN }, () => 0.01 * randomNormal(random));
    return [
      ...rows,
      input(`${prefix}.down_proj.weight`, [HIDDEN, size], ordered, "F16"),
      input(`${prefix}.down_proj.bias`, [HIDDEN], bias, "F16"),
    ];
  };
  const drawn = (size: number): readonly number[] =>
    Array.from({ length: FFN }, (_, neuron) => ({ neuron, key: random() }))
      .toSorted((a, b) => a.key - b.key)
      .slice(0, size)
      .map(({ neuron }) => neuron)
      .toSorted((a, b) => a - b);
  const layers = Array.from({ length: LAYERS }, (_, layer) => layer);
  const numExperts = 3;
  const neurons = layers.map(() => Array.from({ length: numExperts }, () => drawn(72)));
  const orders = layers.map(() => {
    const order = Array.from({ length: 72 }, (_, at) => at);
    return isShuffled ? order.toReversed() : order;
  });
  const inOrder = Array.from({ length: sharedSize }, (_, at) => at);
  const backbone = [...dense].flatMap(([name, { shape, values }]) => {
    const [, layer] = /^model\.layers\.(\d+)\.mlp\.gate/.exec(name) ?? [];
    if (layer !== undefined && sharedSize > 0) return part(Number(layer), drawn(sharedSize), inOrder);
    if (name.includes(".mlp.")) return [];
    const [rows = 1, columns = 1] = shape;
    return [input(name, shape, changed(rows, columns, values, name.includes("embed") ? 0 : tuned), "F32")];
  });
  await writeReadMeFolder(path, {
    config: CONFIG,
    readme: {
      version: 1,
      num_experts: numExperts,
      expert_names: ["a", "b", "c"],
      expert_size: 72,
      shared_size: sharedSize,
      ...(hasRouter ? { router: ROUTER_SECTION } : {}),
      provenance: { base: "random" },
    },
    tensors: {
      backbone,
      experts: Array.from({ length: numExperts }, (_, expert) =>
        layers.flatMap((layer) => part(layer, neurons[layer]?.[expert] ?? [], orders[layer] ?? [])),
      ),
      router: hasRouter ? routerTensors(random, numExperts) : undefined,
    },
    documents: { "README.md": "# A model\n", "report.json": "{}\n" },
  });
  return neurons;
}

function routerTensors(random: () => number, numExperts: number): readonly SafetensorsInput[] {
  const tensor = (name: string, shape: readonly number[]): SafetensorsInput => {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 0.3 * randomNormal(random));
    return input(name, shape, values, "F32");
  };
  const linear = (name: string, out: number, into: number): readonly SafetensorsInput[] => [
    tensor(`${name}.weight`, [out, into]),
    tensor(`${name}.bias`, [out]),
  ];
  return [
    tensor("embed.weight", [VOCABULARY, ROUTER_SIZE]),
    tensor("input_layernorm_0.weight", [ROUTER_SIZE]),
    ...["q_proj_0", "k_proj_0", "v_proj_0", "o_proj_0"].flatMap((name) => linear(name, ROUTER_SIZE, ROUTER_SIZE)),
    tensor("post_attention_layernorm_0.weight", [ROUTER_SIZE]),
    ...linear("proj_1_0", ROUTER_SIZE, ROUTER_SIZE),
    ...linear("proj_2_0", ROUTER_SIZE, ROUTER_SIZE),
    tensor("out_layernorm.weight", [ROUTER_SIZE]),
    ...linear("proj_out", numExperts, ROUTER_SIZE),
  ];
}
