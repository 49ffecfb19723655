// GGUF files of the shapes of larger models, with random blocks in the types that llama.cpp's Q4_K_M gives them.

import { join } from "node:path";
import { crc32 } from "node:zlib";
import { encodeF16, type ModelConfig } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";
import { hasMoreBits } from "../../packages/refactor/src/blocks/block-mixes.ts";
import { hyperparameters, madeTokenizer } from "../../test/support/gguf/convert-model.ts";
import type { GgufInputValue } from "../../packages/model/src/gguf/encode-metadata.ts";
import { type BlockType, type GgufInput, writeGguf } from "../../test/support/gguf/write-gguf.ts";

/** Source of tokens; ids that it does not have are unused. */
const TOKENIZER = join(import.meta.dirname, "..", "..", "models", "pocket");

const QWEN_0_8B = {
  model_type: "qwen3_5_text",
  hidden_size: 1024,
  intermediate_size: 3584,
  num_hidden_layers: 24,
  num_attention_heads: 8,
  num_key_value_heads: 2,
  head_dim: 256,
  linear_num_key_heads: 16,
  linear_num_value_heads: 16,
  vocab_size: 248_320,
  max_position_embeddings: 262_144,
  rope_theta: 1e7,
  tie_word_embeddings: true,
} as const;

/** Configs of published models, as far as they decide sizes. */
export const FILE_SHAPES = {
  "qwen2.5-3b": {
    model_type: "qwen2",
    hidden_size: 2048,
    intermediate_size: 11_008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    vocab_size: 151_936,
    max_position_embeddings: 32_768,
    rope_theta: 1e6,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
  },
  "llama-3.1-8b": {
    model_type: "llama",
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    vocab_size: 128_256,
    max_position_embeddings: 131_072,
    rope_theta: 500_000,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
  },
  "lfm2-1.2b": {
    model_type: "lfm2",
    hidden_size: 2048,
    intermediate_size: 8192,
    block_auto_adjust_ff_dim: false,
    num_hidden_layers: 16,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    vocab_size: 65_536,
    max_position_embeddings: 128_000,
    full_attn_idxs: [2, 5, 8, 10, 12, 14],
  },
  "qwen3.5-0.8b": QWEN_0_8B,
  /** The same with its layer that predicts a further token. */
  "qwen3.5-0.8b-next": { ...QWEN_0_8B, mtp_num_hidden_layers: 1 },
  /** The same width with attention in all layers. */
  "qwen3.5-0.8b-attention": { ...QWEN_0_8B, full_attention_interval: 1 },
  /** A sixth of the layers of Qwen3-30B-A3B. */
  "qwen3-30b-a3b-8-layers": {
    model_type: "qwen3_moe",
    hidden_size: 2048,
    intermediate_size: 6144,
    moe_intermediate_size: 768,
    num_experts: 128,
    num_experts_per_tok: 8,
    norm_topk_prob: true,
    num_hidden_layers: 8,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    head_dim: 128,
    vocab_size: 151_936,
    max_position_embeddings: 40_960,
    rope_theta: 1e6,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
  },
  /** A sixth of the layers of GLM 4.7 Flash. */
  "glm-4.7-flash-8-layers": {
    model_type: "glm4_moe_lite",
    hidden_size: 2048,
    intermediate_size: 10_240,
    moe_intermediate_size: 1536,
    n_routed_experts: 64,
    n_shared_experts: 1,
    num_experts_per_tok: 4,
    num_hidden_layers: 8,
    num_attention_heads: 20,
    q_lora_rank: 768,
    kv_lora_rank: 512,
    qk_rope_head_dim: 64,
    qk_nope_head_dim: 192,
    v_head_dim: 256,
    vocab_size: 154_880,
    max_position_embeddings: 202_752,
    rope_theta: 1e6,
    tie_word_embeddings: false,
  },
} as const;

/** Writes a file. @param shape - a config.json; its sizes are whole blocks of 256 */
export async function writeRandomFile(shape: Readonly<Record<string, unknown>>, path: string): Promise<void> {
  const config = parseConfig("shape", { bos_token_id: 0, eos_token_id: 0, ...shape });
  const tokenizer = await madeTokenizer({ path: TOKENIZER, config });
  const hasNext = shape["mtp_num_hidden_layers"] === 1;
  const all = hasNext ? withNext(config) : config;
  const metadata = new Map([...hyperparameters({ config: all }), ...latentKeys(config), ...tokenizer]);
  if (hasNext) metadata.set("qwen35.nextn_predict_layers", { type: "uint32", value: 1 });
  await writeGguf(path, [...tensorsOf(all), ...(hasNext ? fusionOf(config) : [])], metadata);
}

/** Counts a layer with attention behind the others, which predicts a further token. */
function withNext(config: ModelConfig): ModelConfig {
  const layer = config.layers.find(({ isRecurrent }) => !isRecurrent)!;
  return { ...config, numLayers: config.numLayers + 1, layers: [...config.layers, layer] };
}

/** Lists what such a layer has in front of it and behind it. */
function fusionOf({ numLayers, hiddenSize }: ModelConfig): readonly GgufInput[] {
  const at = `blk.${numLayers}.nextn`;
  const norms = ["enorm", "hnorm", "shared_head_norm"].map((name) => vector(`${at}.${name}.weight`, hiddenSize, 1));
  return [matrix(`${at}.eh_proj`, "Q4_K", [hiddenSize, 2 * hiddenSize]), ...norms];
}

/** Lists the tensors of a model of the families that `FILE_SHAPES` has. */
function tensorsOf(config: ModelConfig): readonly GgufInput[] {
  const { hiddenSize, intermediateSize, numLayers, vocabSize, modelType } = config;
  const isQwenHybrid = modelType === "qwen3_5_text";
  // Small outputs of layers leave embeddings in the stream, so that routers choose all experts about as often.
  const norm = (name: string) => vector(`${name}.weight`, hiddenSize, config.mixture ? 0.01 : 1);
  const layers = Array.from({ length: numLayers }, (_, layer) => {
    const at = `blk.${layer}`;
    const more = hasMoreBits(layer, numLayers) ? "Q6_K" : "Q4_K";
    return [
      norm(`${at}.attn_norm`),
      ...(config.layers[layer]?.isRecurrent ? recurrenceOf(config, at) : attentionOf(config, at, more)),
      norm(`${at}.${isQwenHybrid ? "post_attention_norm" : "ffn_norm"}`),
      ...(config.layers[layer]?.isMixture ? expertsOf(config, at, more) : []),
      ...(config.layers[layer]?.isMixture
        ? []
        : [
            matrix(`${at}.ffn_gate`, "Q4_K", [intermediateSize, hiddenSize]),
            matrix(`${at}.ffn_up`, "Q4_K", [intermediateSize, hiddenSize]),
            matrix(`${at}.ffn_down`, more, [hiddenSize, intermediateSize]),
          ]),
    ];
  });
  const table = [vocabSize, hiddenSize];
  return [
    matrix("token_embd", config.hasTiedEmbeddings ? "Q6_K" : "Q4_K", table),
    ...layers.flat(),
    norm(modelType === "lfm2" ? "token_embd_norm" : "output_norm"),
    ...(config.hasTiedEmbeddings ? [] : [matrix("output", "Q6_K", table)]),
  ];
}

/** Lists what files say of latent attention, and of mixtures beside it. */
function latentKeys({ latent, rotatedSize, mixture, layers }: ModelConfig): ReturnType<typeof hyperparameters> {
  if (!latent) return new Map();
  const { latentSize, plainSize, valueSize, queryRank = 0 } = latent;
  const { sharedSize = 0, expertSize = 1, weightScale = 1 } = mixture ?? {};
  const sizes = {
    "attention.q_lora_rank": queryRank,
    "attention.kv_lora_rank": latentSize,
    "attention.value_length": latentSize,
    "attention.key_length_mla": plainSize + rotatedSize,
    "attention.value_length_mla": valueSize,
    leading_dense_block_count: layers.filter(({ isMixture }) => !isMixture).length,
    expert_shared_count: sharedSize / expertSize,
    expert_gating_func: 2,
  };
  return new Map<string, GgufInputValue>([
    ...Object.entries(sizes).map(([key, value]) => [`deepseek2.${key}`, { type: "uint32", value }] as const),
    ["deepseek2.expert_weights_scale", { type: "float32", value: weightScale }],
    ["deepseek2.expert_weights_norm", { type: "bool", value: true }],
  ]);
}

function latentOf(config: ModelConfig, latent: NonNullable<ModelConfig["latent"]>, at: string): readonly GgufInput[] {
  const { hiddenSize, numHeads, headSize, rotatedSize } = config;
  const { latentSize, plainSize, valueSize, queryRank = hiddenSize } = latent;
  return [
    matrix(`${at}.attn_q_a`, "Q4_K", [queryRank, hiddenSize]),
    vector(`${at}.attn_q_a_norm.weight`, queryRank, 1),
    matrix(`${at}.attn_q_b`, "Q4_K", [numHeads * (plainSize + rotatedSize), queryRank]),
    matrix(`${at}.attn_kv_a_mqa`, "Q4_K", [headSize, hiddenSize]),
    vector(`${at}.attn_kv_a_norm.weight`, latentSize, 1),
    // Products of heads keep 8 bits, as in published files.
    inBytes(`${at}.attn_k_b.weight`, [numHeads, latentSize, plainSize]),
    inBytes(`${at}.attn_v_b.weight`, [numHeads, valueSize, latentSize]),
    matrix(`${at}.attn_output`, "Q4_K", [hiddenSize, numHeads * valueSize]),
  ];
}

function attentionOf(config: ModelConfig, at: string, more: NoiseType): readonly GgufInput[] {
  const { hiddenSize, numHeads, numKvHeads, headSize, gatesAttention } = config;
  if (config.latent) return latentOf(config, config.latent, at);
  const [querySize, keySize] = [numHeads * headSize, numKvHeads * headSize];
  const biases = { q: querySize, k: keySize, v: keySize };
  return [
    matrix(`${at}.attn_q`, "Q4_K", [gatesAttention ? 2 * querySize : querySize, hiddenSize]),
    matrix(`${at}.attn_k`, "Q4_K", [keySize, hiddenSize]),
    matrix(`${at}.attn_v`, more, [keySize, hiddenSize]),
    matrix(`${at}.attn_output`, "Q4_K", [hiddenSize, querySize]),
    ...(config.hasQkvBias
      ? Object.entries(biases).map(([product, size]) => vector(`${at}.attn_${product}.bias`, size, 0))
      : []),
    ...(config.qkNorm ? ["q", "k"].map((part) => vector(`${at}.attn_${part}_norm.weight`, headSize, 1)) : []),
  ];
}

function expertsOf({ hiddenSize, mixture }: ModelConfig, at: string, more: NoiseType): readonly GgufInput[] {
  const { numExperts = 0, expertSize = 0, sharedSize = 0, sigmoids } = mixture ?? {};
  const name = `${at}.ffn_gate_inp.weight`;
  const floats = async () => uniform(name, numExperts * hiddenSize);
  return [
    { name, type: "F32", shape: [numExperts, hiddenSize], floats },
    matrix(`${at}.ffn_gate_exps`, "Q4_K", [numExperts, expertSize, hiddenSize]),
    matrix(`${at}.ffn_up_exps`, "Q4_K", [numExperts, expertSize, hiddenSize]),
    matrix(`${at}.ffn_down_exps`, more, [numExperts, hiddenSize, expertSize]),
    ...(sigmoids?.hasBiases ? [vector(`${at}.exp_probs_b.bias`, numExperts, 0)] : []),
    ...(sharedSize > 0
      ? [
          matrix(`${at}.ffn_gate_shexp`, "Q4_K", [sharedSize, hiddenSize]),
          matrix(`${at}.ffn_up_shexp`, "Q4_K", [sharedSize, hiddenSize]),
          matrix(`${at}.ffn_down_shexp`, more, [hiddenSize, sharedSize]),
        ]
      : []),
  ];
}

/** Lists the tensors of a short convolution, or of the gated delta rule. */
function recurrenceOf({ hiddenSize, recurrence }: ModelConfig, at: string): readonly GgufInput[] {
  const { kind, numTaps, numKeyHeads = 0, keySize = 0, numValueHeads = 0, valueSize = 0 } = recurrence ?? {};
  const [keys, values] = [numKeyHeads * keySize, numValueHeads * valueSize];
  const taps = (name: string, channels: number): GgufInput => {
    const size = channels * (numTaps ?? 0);
    return { name, type: "F32", shape: [channels, numTaps ?? 0], floats: async () => new Float32Array(size).fill(0.3) };
  };
  if (kind === "convolution") {
    return [
      matrix(`${at}.shortconv.in_proj`, "Q4_K", [3 * hiddenSize, hiddenSize]),
      taps(`${at}.shortconv.conv.weight`, hiddenSize),
      matrix(`${at}.shortconv.out_proj`, "Q4_K", [hiddenSize, hiddenSize]),
    ];
  }
  return [
    matrix(`${at}.attn_qkv`, "Q4_K", [2 * keys + values, hiddenSize]),
    matrix(`${at}.attn_gate`, "Q4_K", [values, hiddenSize]),
    matrix(`${at}.ssm_beta`, "Q4_K", [numValueHeads, hiddenSize]),
    matrix(`${at}.ssm_alpha`, "Q4_K", [numValueHeads, hiddenSize]),
    taps(`${at}.ssm_conv1d.weight`, 2 * keys + values),
    vector(`${at}.ssm_dt.bias`, numValueHeads, 0),
    vector(`${at}.ssm_a`, numValueHeads, -1),
    vector(`${at}.ssm_norm.weight`, valueSize, 1),
    matrix(`${at}.ssm_out`, "Q4_K", [hiddenSize, values]),
  ];
}

/** Draws numbers within 0.05 of 0. */
function uniform(name: string, length: number): Float32Array {
  const random = seededRandom(crc32(name));
  return Float32Array.from({ length }, () => 0.1 * random() - 0.05);
}

function inBytes(name: string, shape: readonly [number, number, number]): GgufInput {
  return { name, type: "Q8_0", shape, floats: async () => uniform(name, shape[0] * shape[1] * shape[2]) };
}

function vector(name: string, size: number, value: number): GgufInput {
  return { name, type: "F32", shape: [size], floats: async () => new Float32Array(size).fill(value) };
}

function matrix(product: string, type: NoiseType, shape: readonly number[]): GgufInput {
  const name = `${product}.weight`;
  return { name, type, shape, blocks: (numBlocks) => repeated(noiseOf(type), crc32(name), numBlocks) };
}

/** Numbers in half precision of a block, by offset. Weights have a mean of about 0 and a deviation of 0.03 to 0.08. */
const HALVES = {
  Q4_K: { blockBytes: 144, halves: [[0, 2 ** -13] as const, [2, 7.5 * 2 ** -13] as const] },
  Q6_K: { blockBytes: 210, halves: [[208, 2 ** -14] as const] },
} satisfies Partial<Record<BlockType, unknown>>;

type NoiseType = keyof typeof HALVES;

interface Noise {
  readonly bytes: Uint8Array;
  readonly blockBytes: number;
}

const NOISE_BLOCKS = 8191;
const noises = new Map<NoiseType, Noise>();

/** Draws blocks once for each type: all bytes are random but those of scales in half precision. */
function noiseOf(type: NoiseType): Noise {
  const made = noises.get(type);
  if (made) return made;
  const { blockBytes, halves } = HALVES[type];
  const random = seededRandom(crc32(type));
  const bytes = Uint8Array.from({ length: NOISE_BLOCKS * blockBytes }, () => Math.floor(256 * random()));
  for (let at = 0; at < bytes.length; at += blockBytes) {
    for (const [offset, value] of halves) bytes.set(encodeF16(Float32Array.of(value)), at + offset);
  }
  const noise = { bytes, blockBytes };
  noises.set(type, noise);
  return noise;
}

/** Takes blocks of an endless repetition. @param start - a block's number */
function repeated({ bytes, blockBytes }: Noise, start: number, numBlocks: number): Uint8Array {
  const taken = new Uint8Array(numBlocks * blockBytes);
  let from = (start % NOISE_BLOCKS) * blockBytes;
  for (let at = 0; at < taken.length; from = 0) {
    const piece = bytes.subarray(from, from + taken.length - at);
    taken.set(piece, at);
    at += piece.length;
  }
  return taken;
}
