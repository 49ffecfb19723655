// Small Read-ME models with random weights, written as folders.

import { join } from "node:path";
import { writeReadMeFolder, type ReadMeContent, type SafetensorsInput } from "@readme-moe/model";
import { randomNormal, seededRandom } from "./random.ts";

const POCKET_FOLDER = join(import.meta.dirname, "..", "..", "models", "pocket");

export interface TinyOptions {
  readonly seed?: number;
  readonly numExperts?: number;
  /** Sizes per layer. */
  readonly expertSizes?: readonly number[];
  readonly sharedSizes?: readonly number[];
  readonly hasBias?: boolean;
  /** Gives all weights of experts one size, so that their integer products are as large as possible. @default false */
  readonly isExtreme?: boolean;
  readonly hasRouter?: boolean;
  /** @default 96 */
  readonly vocabSize?: number;
  /** Files beside the weights, such as a tokenizer of `vocabSize` tokens. */
  readonly copies?: readonly string[];
  readonly config?: Readonly<Record<string, unknown>>;
}

/** The pocket model's tokenizer, for tiny models that read texts. */
export const WITH_TOKENIZER: Pick<Required<TinyOptions>, "vocabSize" | "copies"> = {
  vocabSize: 4096,
  copies: ["tokenizer.json", "tokenizer_config.json"].map((name) => join(POCKET_FOLDER, name)),
};

const HIDDEN = 32;
const ROUTER_SIZE = 16;

/** Makes two layers, four heads over two key/value heads, and the given number of experts. */
export async function writeTinyReadMe(path: string, options: TinyOptions = {}): Promise<void> {
  await writeReadMeFolder(path, tinyContent(options));
}

export function tinyContent(options: TinyOptions = {}): ReadMeContent {
  const { seed = 1, numExperts = 3, expertSizes = [24, 40], sharedSizes = [16, 0] } = options;
  const { hasBias = false, hasRouter = true, isExtreme = false, vocabSize = 96 } = options;
  const random = seededRandom(seed);
  const tensor = (name: string, shape: readonly number[], scale = 0.2): SafetensorsInput => {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => scale * randomNormal(random));
    return { name, type: "F32", shape, bytes: async () => new Uint8Array(values.buffer) };
  };
  const norm = (name: string, size: number): SafetensorsInput => {
    const values = Float32Array.from({ length: size }, () => 1 + 0.1 * randomNormal(random));
    return { name, type: "F32", shape: [size], bytes: async () => new Uint8Array(values.buffer) };
  };
  const linear = (
    prefix: string,
    out: number,
    input: number,
    withBias: boolean,
    weight: (name: string, shape: readonly number[]) => SafetensorsInput = tensor,
  ): SafetensorsInput[] => [
    weight(`${prefix}.weight`, [out, input]),
    ...(withBias ? [tensor(`${prefix}.bias`, [out])] : []),
  ];
  const expertWeight = (name: string, shape: readonly number[]): SafetensorsInput =>
    isExtreme ? signs(name, shape, 0.2, random) : tensor(name, shape);
  const feedForward = (layer: number, size: number): SafetensorsInput[] => [
    ...linear(`model.layers.${layer}.mlp.gate_proj`, size, HIDDEN, hasBias, expertWeight),
    ...linear(`model.layers.${layer}.mlp.up_proj`, size, HIDDEN, hasBias, expertWeight),
    ...linear(`model.layers.${layer}.mlp.down_proj`, HIDDEN, size, hasBias, expertWeight),
  ];
  const layers = expertSizes.map((_, layer) => layer);
  return {
    config: {
      model_type: "llama",
      architectures: ["LlamaForCausalLM"],
      vocab_size: vocabSize,
      hidden_size: HIDDEN,
      intermediate_size: 64,
      num_hidden_layers: layers.length,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      max_position_embeddings: 256,
      tie_word_embeddings: true,
      bos_token_id: 0,
      eos_token_id: 0,
      ...options.config,
    },
    readme: {
      version: 1,
      num_experts: numExperts,
      expert_names: Array.from({ length: numExperts }, (_, expert) => `domain-${expert}`),
      expert_size: expertSizes,
      shared_size: sharedSizes,
      ...(hasRouter ? { router: ROUTER_SECTION } : {}),
    },
    copies: options.copies,
    tensors: {
      backbone: [
        tensor("model.embed_tokens.weight", [vocabSize, HIDDEN], 1),
        ...layers.flatMap((layer) => [
          norm(`model.layers.${layer}.input_layernorm.weight`, HIDDEN),
          ...linear(`model.layers.${layer}.self_attn.q_proj`, 32, HIDDEN, false),
          ...linear(`model.layers.${layer}.self_attn.k_proj`, 16, HIDDEN, false),
          ...linear(`model.layers.${layer}.self_attn.v_proj`, 16, HIDDEN, false),
          ...linear(`model.layers.${layer}.self_attn.o_proj`, HIDDEN, 32, false),
          norm(`model.layers.${layer}.post_attention_layernorm.weight`, HIDDEN),
          ...(sharedSizes[layer] ? feedForward(layer, sharedSizes[layer]) : []),
        ]),
        norm("model.norm.weight", HIDDEN),
      ],
      experts: Array.from({ length: numExperts }, () =>
        layers.flatMap((layer) => feedForward(layer, expertSizes[layer] as number)),
      ),
      router: hasRouter
        ? [
            tensor("embed.weight", [vocabSize, ROUTER_SIZE], 1),
            norm("input_layernorm_0.weight", ROUTER_SIZE),
            ...["q_proj_0", "k_proj_0", "v_proj_0", "o_proj_0"].flatMap((name) =>
              linear(name, ROUTER_SIZE, ROUTER_SIZE, true),
            ),
            norm("post_attention_layernorm_0.weight", ROUTER_SIZE),
            ...linear("proj_1_0", ROUTER_SIZE, ROUTER_SIZE, true),
            ...linear("proj_2_0", ROUTER_SIZE, ROUTER_SIZE, true),
            norm("out_layernorm.weight", ROUTER_SIZE),
            ...linear("proj_out", numExperts, ROUTER_SIZE, true),
          ]
        : undefined,
    },
  };
}

/** Makes routers of size 16. */
export const ROUTER_SECTION = {
  embedding_size: ROUTER_SIZE,
  inner_size: ROUTER_SIZE,
  num_heads: 2,
  num_layers: 1,
  normalizer: 1,
  rope_theta: 10000,
  context_tokens: 256,
  activation: "silu",
} as const;

/** Makes values `scale` and, one in eight, `-scale`; neighbours mostly add up. */
function signs(name: string, shape: readonly number[], scale: number, random: () => number): SafetensorsInput {
  const size = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: size }, () => (random() < 0.125 ? -scale : scale));
  return { name, type: "F32", shape, bytes: async () => new Uint8Array(values.buffer) };
}
