// GGUF files of the shapes of larger models, with random blocks in the types that llama.cpp's Q4_K_M gives them.

import { join } from "node:path";
import { crc32 } from "node:zlib";
import { encodeF16, type ModelConfig } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";
import { parseConfig } from "../../packages/model/src/config/parse-config.ts";
import { hasMoreBits } from "../../packages/refactor/src/blocks/block-mixes.ts";
import { hyperparameters, madeTokenizer } from "../../test/support/gguf/convert-model.ts";
import { type BlockType, type GgufInput, writeGguf } from "../../test/support/gguf/write-gguf.ts";

/** Source of tokens; ids that it does not have are unused. */
const TOKENIZER = join(import.meta.dirname, "..", "..", "models", "pocket");

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
} as const;

/** Writes a file. @param shape - a config.json; its sizes are whole blocks of 256 */
export async function writeRandomFile(shape: Readonly<Record<string, unknown>>, path: string): Promise<void> {
  const config = parseConfig("shape", { bos_token_id: 0, eos_token_id: 0, ...shape });
  const tokenizer = await madeTokenizer({ path: TOKENIZER, config });
  await writeGguf(path, tensorsOf(config), new Map([...hyperparameters({ config }), ...tokenizer]));
}

/** Lists the tensors of a dense model of the families that `FILE_SHAPES` has. */
function tensorsOf(config: ModelConfig): readonly GgufInput[] {
  const { hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headSize, vocabSize } = config;
  const [querySize, keySize] = [numHeads * headSize, numKvHeads * headSize];
  const norm = (name: string) => vector(`${name}.weight`, hiddenSize, 1);
  const layers = Array.from({ length: numLayers }, (_, layer) => {
    const at = `blk.${layer}`;
    const more = hasMoreBits(layer, numLayers) ? "Q6_K" : "Q4_K";
    const biases = { q: querySize, k: keySize, v: keySize };
    return [
      norm(`${at}.attn_norm`),
      matrix(`${at}.attn_q`, "Q4_K", [querySize, hiddenSize]),
      matrix(`${at}.attn_k`, "Q4_K", [keySize, hiddenSize]),
      matrix(`${at}.attn_v`, more, [keySize, hiddenSize]),
      matrix(`${at}.attn_output`, "Q4_K", [hiddenSize, querySize]),
      norm(`${at}.ffn_norm`),
      matrix(`${at}.ffn_gate`, "Q4_K", [intermediateSize, hiddenSize]),
      matrix(`${at}.ffn_up`, "Q4_K", [intermediateSize, hiddenSize]),
      matrix(`${at}.ffn_down`, more, [hiddenSize, intermediateSize]),
      ...(config.modelType === "qwen2"
        ? Object.entries(biases).map(([product, size]) => vector(`${at}.attn_${product}.bias`, size, 0))
        : []),
    ];
  });
  const table = [vocabSize, hiddenSize];
  return [
    matrix("token_embd", config.hasTiedEmbeddings ? "Q6_K" : "Q4_K", table),
    ...layers.flat(),
    norm("output_norm"),
    ...(config.hasTiedEmbeddings ? [] : [matrix("output", "Q6_K", table)]),
  ];
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
