// A model with a short name, such as `qwen3:0.6b`: where its weights are, and what it needs.

import type { Precision } from "../weights/precision.ts";

/** Number type of published weights: a safetensors checkpoint in bfloat16, or a type of GGUF files. */
export type SourceWeights = "bf16" | "q8_0" | "q4_k_m";

/** Published weights of a model. */
export interface WeightSource {
  readonly weights: SourceWeights;
  /** `organisation/name` on the hub. */
  readonly repository: string;
  /** GGUF file of the repository; absent for safetensors. */
  readonly file?: string;
  /** Size of the weights, in bytes, as the hub had it; another revision may have another. */
  readonly bytes: number;
  /** Whether the hub wants a token of an account that has accepted the terms. @default false */
  readonly isGated?: boolean;
}

/** Sizes that determine how much memory a decoder needs. */
export interface DecoderShape {
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly ffnSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly vocabSize: number;
  /** Whether the head is the embedding table. */
  readonly isTied: boolean;
}

/** A model with a short name. */
export interface KnownModel {
  /** `family:size` in small letters. */
  readonly name: string;
  /** Name of the model as its authors write it. */
  readonly title: string;
  /** `model_type` of its config, a supported family. */
  readonly modelType: string;
  /** SPDX identifier, or the name of the authors' own licence. */
  readonly license: string;
  readonly shape: DecoderShape;
  /** Sources, from the most exact weights to the smallest. The first that is not gated stands for the plain name. */
  readonly sources: readonly WeightSource[];
}

/** Number of parameters. Biases and norms of queries and keys, less than a five-thousandth, are not counted. */
export function parametersOf({ shape }: KnownModel): number {
  const { vocabSize, hiddenSize, numLayers, isTied } = shape;
  return vocabSize * hiddenSize * (isTied ? 1 : 2) + layerWeights(shape) + hiddenSize * (2 * numLayers + 1);
}

/** Weights of all layers: attention and a gated feed-forward layer. */
function layerWeights({ hiddenSize, numLayers, ffnSize, numHeads, numKvHeads, headSize }: DecoderShape): number {
  return numLayers * hiddenSize * (2 * headSize * (numHeads + numKvHeads) + 3 * ffnSize);
}

/** Bytes per weight of layers, of the head, and of an embedding table that is not the head. */
const WEIGHT_BYTES: Readonly<Record<Precision, readonly [layers: number, head: number, embedding: number]>> = {
  fp32: [4, 4, 4],
  int8: [1, 1, 2],
  // 4 bits and two numbers for each 32 weights; the head keeps 8 bits.
  int4: [0.75, 1.125, 2],
  // As in Q4_K_M: most layers have 4.6 bits, the others and the head 6.6.
  file: [0.61, 0.82, 0.82],
};
/** Node and the kernel without a model, and the vocabulary of a tokenizer. */
const [PROCESS_BYTES, TOKEN_BYTES] = [83e6, 220];
const CONTEXT_TOKENS = 2048;

/**
 * Estimates the memory of a process that runs a model with one sequence of 2,048 tokens, in bytes. `readme-moe plan`
 * counts exactly, but needs the model's files.
 */
export function memoryBytesOf({ shape }: KnownModel, precision: Precision): number {
  const { vocabSize, hiddenSize, isTied, numLayers, numKvHeads, headSize } = shape;
  const [layers, head, embedding] = WEIGHT_BYTES[precision];
  const table = vocabSize * hiddenSize;
  const weights = layerWeights(shape) * layers + table * (head + (isTied ? 0 : embedding));
  const keyBytes = precision === "fp32" ? 4 : 2;
  // A quarter more for the prefix cache.
  const keysAndValues = 1.25 * CONTEXT_TOKENS * 2 * numLayers * numKvHeads * headSize * keyBytes;
  return Math.ceil(weights + keysAndValues + PROCESS_BYTES + vocabSize * TOKEN_BYTES);
}

/** Weights that a precision takes, from the best to the last choice. Other ones are read as well, and converted. */
const PREFERRED: Readonly<Record<Precision, readonly SourceWeights[]>> = {
  fp32: ["bf16", "q8_0", "q4_k_m"],
  // Eight bits are taken over as they are; from bfloat16 they are rounded here, at twice the download.
  int8: ["q8_0", "bf16", "q4_k_m"],
  int4: ["q4_k_m", "q8_0", "bf16"],
  file: ["q4_k_m", "q8_0", "bf16"],
};

/** Precision that chooses the weights of a short name for a program that runs them and names none: nothing is lost. */
export const RUNNING_PRECISION: Precision = "int8";

/** Chooses the weights for a precision, among those that need no token if there are any. */
export function sourceFor({ sources }: KnownModel, precision: Precision = "fp32"): WeightSource {
  const open = sources.filter(({ isGated }) => !isGated);
  const choice = open.length > 0 ? open : sources;
  const preferred = PREFERRED[precision].map((weights) => choice.find((source) => source.weights === weights));
  const source = preferred.find((one) => one !== undefined) ?? choice[0];
  if (source === undefined) throw new TypeError("Expected a model with sources");
  return source;
}
