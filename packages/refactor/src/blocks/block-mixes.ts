// Mixes of block types, as llama.cpp's quantiser makes them: some tensors of a model get more bits than the others.
// Source: llama_tensor_get_type in src/llama-quant.cpp of llama.cpp.

import { blockLayoutOf, type StoredType } from "@readme-moe/model";
import { ROUNDED_TYPES, type RoundedType } from "./round-blocks.ts";

/** Place of a tensor in a model. */
interface TensorPlace {
  readonly layer: number;
  readonly numLayers: number;
  readonly queriesPerKey: number;
}

type TypeRule = RoundedType | ((place: TensorPlace) => RoundedType);

interface BlockMix {
  /** Number of the mix in `general.file_type`. */
  readonly fileType: number;
  readonly most: RoundedType;
  /** Types of tensors that differ, by ggml's name within a layer. */
  readonly others?: Readonly<Record<string, TypeRule>>;
}

/** Tells which layers get more bits: the first and last eighth, and every third between. */
export function hasMoreBits(layer: number, numLayers: number): boolean {
  const eighth = Math.floor(numLayers / 8);
  return layer < eighth || layer >= Math.floor((7 * numLayers) / 8) || (layer - eighth) % 3 === 2;
}

const inMore =
  (more: RoundedType, most: RoundedType) =>
  ({ layer, numLayers }: TensorPlace): RoundedType =>
    hasMoreBits(layer, numLayers) ? more : most;

const inFirst =
  (share: number, more: RoundedType, most: RoundedType) =>
  ({ layer, numLayers }: TensorPlace): RoundedType =>
    layer < Math.floor(numLayers * share) ? more : most;

/** The mixes by name. */
export const BLOCK_MIXES = {
  q2_k: {
    fileType: 10,
    most: "Q2_K",
    others: {
      attn_v: ({ queriesPerKey }) => (queriesPerKey >= 4 ? "Q4_K" : "Q3_K"),
      attn_output: "Q3_K",
      ffn_down: "Q3_K",
    },
  },
  q3_k_s: { fileType: 11, most: "Q3_K" },
  q3_k_m: {
    fileType: 12,
    most: "Q3_K",
    others: {
      attn_v: ({ layer }) => (layer < 2 ? "Q5_K" : "Q4_K"),
      attn_qkv: "Q4_K",
      attn_output: "Q4_K",
      ffn_down: inFirst(1 / 16, "Q5_K", "Q4_K"),
    },
  },
  q4_0: { fileType: 2, most: "Q4_0" },
  q4_k_s: {
    fileType: 14,
    most: "Q4_K",
    others: { attn_v: ({ layer }) => (layer < 4 ? "Q5_K" : "Q4_K"), ffn_down: inFirst(1 / 8, "Q5_K", "Q4_K") },
  },
  q4_k_m: {
    fileType: 15,
    most: "Q4_K",
    others: { attn_v: inMore("Q6_K", "Q4_K"), attn_qkv: "Q5_K", ffn_down: inMore("Q6_K", "Q4_K") },
  },
  q5_0: { fileType: 8, most: "Q5_0" },
  q5_k_m: {
    fileType: 17,
    most: "Q5_K",
    others: { attn_v: inMore("Q6_K", "Q5_K"), attn_qkv: "Q6_K", ffn_down: inMore("Q6_K", "Q5_K") },
  },
  q6_k: { fileType: 18, most: "Q6_K" },
  q8_0: { fileType: 7, most: "Q8_0" },
} as const satisfies Readonly<Record<string, BlockMix>>;

/** Name of a mix of block types. */
export type BlockMixName = keyof typeof BLOCK_MIXES;
/** Names of all mixes, those with the fewest bits first. */
export const BLOCK_MIX_NAMES = Object.keys(BLOCK_MIXES) as readonly BlockMixName[];

const NAME = /^(?:blk\.(?<layer>\d+)\.)?(?<part>\w+)\.weight$/;
/** Matrices that stay as they are: routers are small, and decide. */
const KEPT = /_norm|ffn_gate_inp/;

/**
 * Chooses the type of a matrix of a model.
 *
 * @param name - ggml's name, such as `blk.3.ffn_down.weight`
 * @param isHead - tells whether the tensor makes the logits, which get six bits at least
 * @returns `undefined` for matrices that are not rounded
 */
export function typeInMix(
  mix: BlockMixName,
  name: string,
  model: Pick<TensorPlace, "numLayers" | "queriesPerKey"> & { readonly isHead: boolean },
): RoundedType | undefined {
  const { layer, part } = NAME.exec(name)?.groups ?? {};
  if (part === undefined || KEPT.test(part)) return undefined;
  const { most, others }: BlockMix = BLOCK_MIXES[mix];
  if (model.isHead) return most === "Q8_0" ? most : "Q6_K";
  const rule = others?.[part.replace(/_exps$/, "")] ?? most;
  return typeof rule === "string" ? rule : rule({ ...model, layer: Number(layer ?? 0) });
}

/** Types that take the place of others: of those that weights are not rounded to, and of blocks of 256 those of 32. */
const INSTEAD: Readonly<Partial<Record<StoredType, RoundedType>>> = {
  IQ4_XS: "Q4_K",
  IQ4_NL: "Q4_0",
  MXFP4: "Q4_0",
  TQ2_0: "Q2_K",
  Q2_K: "Q4_0",
  Q3_K: "Q4_0",
  Q4_K: "Q5_0",
  Q5_K: "Q5_1",
  Q6_K: "Q8_0",
};

/**
 * Finds the type that rows of `width` weights are rounded to in place of a type of blocks; half precision if there is
 * none.
 */
export function typeOfWidth(type: StoredType, width: number): RoundedType | "F16" {
  let own: StoredType | undefined = type;
  while (own !== undefined) {
    const rounded = ROUNDED_TYPES.find((one) => one === own);
    if (rounded && width % (blockLayoutOf(rounded)?.values ?? 1) === 0) return rounded;
    own = INSTEAD[own];
  }
  return "F16";
}
