// The table of short names. A new entry needs nothing else: commands, help and docs follow the table.

import type { Precision } from "../weights/model-weights.ts";

/** Describes a decoder whose head is its embedding table, unless `isTied` is false. */
function decoder(
  [hiddenSize, numLayers, ffnSize]: readonly [hiddenSize: number, numLayers: number, ffnSize: number],
  [numHeads, numKvHeads, headSize]: readonly [numHeads: number, numKvHeads: number, headSize: number],
  vocabSize: number,
  isTied = true,
): ModelShape {
  return { hiddenSize, numLayers, ffnSize, numHeads, numKvHeads, headSize, vocabSize, isTied };
}

/**
 * Describes an encoder with norms and, unless it is gated, biases.
 *
 * @param tableRows - rows of its tables of positions and segments
 * @param numOthers - weights of its pooler or classifier, and of distances
 */
function encoder(
  [hiddenSize, numLayers, ffnSize, numHeads]: readonly [hidden: number, layers: number, ffn: number, heads: number],
  vocabSize: number,
  { tableRows, numOthers = 0, isGated = false }: EncoderParts,
): ModelShape {
  const sizes = { hiddenSize, numLayers, ffnSize, numHeads, numKvHeads: numHeads, headSize: hiddenSize / numHeads };
  return { ...sizes, vocabSize, isTied: true, encoder: { tableRows, numOthers, isGated } };
}

const f32 = (repository: string, bytes: number): WeightSource => ({ weights: "f32", repository, bytes });
const bf16 = (repository: string, bytes: number): WeightSource => ({ weights: "bf16", repository, bytes });
/** The same behind terms that a user has to accept. */
const gated = (repository: string, bytes: number): WeightSource => ({ ...bf16(repository, bytes), isGated: true });
const gguf =
  (weights: SourceWeights) =>
  (repository: string, file: string, bytes: number): WeightSource => ({ weights, repository, file, bytes });
const [q8, q4] = [gguf("q8_0"), gguf("q4_k_m")];

/** Makes entries of one licence. A title is the name of the first repository. */
const entriesOf =
  (license: string) =>
  (name: string, modelType: string, shape: ModelShape, sources: readonly WeightSource[]): KnownModel => {
    const title = sources[0]?.repository.split("/")[1]?.replace(/-GGUF$/, "") ?? "";
    return { name, title, modelType, license, shape, sources };
  };
const [entry, mit] = [entriesOf("Apache-2.0"), entriesOf("MIT")];
const [llama, gemma] = [entriesOf("Llama 3.2 Community License"), entriesOf("Gemma Terms of Use")];

/** Instruct model of Qwen2.5-Coder. Packages have the files of the smaller ones, too (`preset.ts`). */
function coder(size: "0.5B" | "1.5B" | "7B", bytes: number, shape: ModelShape): KnownModel {
  const file = `qwen2.5-coder-${size.toLowerCase()}-instruct-q4_k_m.gguf`;
  const sources = [q4(`Qwen/Qwen2.5-Coder-${size}-Instruct-GGUF`, file, bytes)];
  return entry(`qwen2.5-coder:${size.toLowerCase()}`, "qwen2", shape, sources);
}

/** Pooler of BERT: a product with biases. */
const poolerOf = (hiddenSize: number): number => hiddenSize * (hiddenSize + 1);
const SMALL_BERT = encoder([384, 12, 1536, 12], 30_522, { tableRows: 514, numOthers: poolerOf(384) });

const QWEN2_5_0_5B = decoder([896, 24, 4864], [14, 2, 64], 151_936);
const QWEN2_5_1_5B = decoder([1536, 28, 8960], [12, 2, 128], 151_936);

/** Every model with a short name, in the order in which they are listed. */
export const KNOWN_MODELS: readonly KnownModel[] = [
  entry("smollm2:135m", "llama", decoder([576, 30, 1536], [9, 3, 64], 49_152), [
    bf16("HuggingFaceTB/SmolLM2-135M-Instruct", 269_060_552),
  ]),
  entry("smollm2:360m", "llama", decoder([960, 32, 2560], [15, 5, 64], 49_152), [
    bf16("HuggingFaceTB/SmolLM2-360M-Instruct", 723_674_912),
    q8("HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "smollm2-360m-instruct-q8_0.gguf", 386_404_992),
  ]),
  entry("smollm2:1.7b", "llama", decoder([2048, 24, 8192], [32, 32, 64], 49_152), [
    bf16("HuggingFaceTB/SmolLM2-1.7B-Instruct", 3_422_777_952),
    q8("bartowski/SmolLM2-1.7B-Instruct-GGUF", "SmolLM2-1.7B-Instruct-Q8_0.gguf", 1_820_414_944),
    q4("HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "smollm2-1.7b-instruct-q4_k_m.gguf", 1_055_609_536),
  ]),
  entry("smollm3:3b", "smollm3", decoder([2048, 36, 11_008], [16, 4, 128], 128_256), [
    bf16("HuggingFaceTB/SmolLM3-3B", 6_150_234_000),
    q8("ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q8_0.gguf", 3_275_574_624),
    q4("ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q4_K_M.gguf", 1_915_305_312),
  ]),
  entry("qwen3:0.6b", "qwen3", decoder([1024, 28, 3072], [16, 8, 128], 151_936), [
    bf16("Qwen/Qwen3-0.6B", 1_503_300_328),
    q8("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf", 639_446_688),
  ]),
  entry("qwen3:1.7b", "qwen3", decoder([2048, 28, 6144], [16, 8, 128], 151_936), [
    bf16("Qwen/Qwen3-1.7B", 4_063_600_000),
    q8("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf", 1_834_426_016),
  ]),
  entry("qwen3:4b", "qwen3", decoder([2560, 36, 9728], [32, 8, 128], 151_936), [
    bf16("Qwen/Qwen3-4B", 8_044_982_000),
    q8("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q8_0.gguf", 4_280_404_704),
    q4("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf", 2_497_280_256),
  ]),
  entry("qwen3-embedding:0.6b", "qwen3", decoder([1024, 28, 3072], [16, 8, 128], 151_669), [
    bf16("Qwen/Qwen3-Embedding-0.6B", 1_191_586_416),
    q8("Qwen/Qwen3-Embedding-0.6B-GGUF", "Qwen3-Embedding-0.6B-Q8_0.gguf", 639_150_592),
  ]),
  entry("qwen3-reranker:0.6b", "qwen3", decoder([1024, 28, 3072], [16, 8, 128], 151_669), [
    bf16("Qwen/Qwen3-Reranker-0.6B", 1_191_588_280),
    q8("ggml-org/Qwen3-Reranker-0.6B-Q8_0-GGUF", "qwen3-reranker-0.6b-q8_0.gguf", 639_153_184),
  ]),
  entry("qwen2.5:0.5b", "qwen2", QWEN2_5_0_5B, [
    bf16("Qwen/Qwen2.5-0.5B-Instruct", 988_097_824),
    q8("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q8_0.gguf", 675_710_816),
    q4("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_k_m.gguf", 491_400_032),
  ]),
  entry("qwen2.5:1.5b", "qwen2", QWEN2_5_1_5B, [
    bf16("Qwen/Qwen2.5-1.5B-Instruct", 3_087_467_144),
    q8("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q8_0.gguf", 1_894_532_128),
    q4("Qwen/Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct-q4_k_m.gguf", 1_117_320_736),
  ]),
  coder("0.5B", 491_400_064, QWEN2_5_0_5B),
  coder("1.5B", 1_117_320_768, QWEN2_5_1_5B),
  coder("7B", 4_683_000_000, decoder([3584, 28, 18_944], [28, 4, 128], 152_064, false)),
  llama("llama3.2:1b", "llama", decoder([2048, 16, 8192], [32, 8, 64], 128_256), [
    gated("meta-llama/Llama-3.2-1B-Instruct", 2_471_645_608),
    q8("bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q8_0.gguf", 1_321_083_008),
    q4("bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", 807_694_464),
  ]),
  llama("llama3.2:3b", "llama", decoder([3072, 28, 8192], [24, 8, 128], 128_256), [
    gated("meta-llama/Llama-3.2-3B-Instruct", 6_425_528_000),
    q8("bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q8_0.gguf", 3_421_899_296),
    q4("bartowski/Llama-3.2-3B-Instruct-GGUF", "Llama-3.2-3B-Instruct-Q4_K_M.gguf", 2_019_377_696),
  ]),
  gemma("gemma3:270m", "gemma3_text", decoder([640, 18, 2048], [4, 1, 256], 262_144), [
    gated("google/gemma-3-270m-it", 536_223_000),
    q8("ggml-org/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q8_0.gguf", 291_545_600),
  ]),
  gemma("gemma3:270m-base", "gemma3_text", decoder([640, 18, 2048], [4, 1, 256], 262_144), [
    gated("google/gemma-3-270m", 536_223_000),
  ]),
  gemma("gemma3:1b", "gemma3_text", decoder([1152, 26, 6912], [4, 1, 256], 262_144), [
    gated("google/gemma-3-1b-it", 1_999_811_000),
    q8("ggml-org/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q8_0.gguf", 1_069_306_000),
    q4("ggml-org/gemma-3-1b-it-GGUF", "gemma-3-1b-it-Q4_K_M.gguf", 806_058_000),
  ]),
  entry("granite3.3:2b", "granite", decoder([2048, 40, 8192], [32, 8, 64], 49_159), [
    bf16("ibm-granite/granite-3.3-2b-instruct", 5_067_122_000),
    q8("ibm-granite/granite-3.3-2b-instruct-GGUF", "granite-3.3-2b-instruct-Q8_0.gguf", 2_694_000_000),
    q4("ibm-granite/granite-3.3-2b-instruct-GGUF", "granite-3.3-2b-instruct-Q4_K_M.gguf", 1_545_303_328),
  ]),
  entry("olmo2:1b", "olmo2", decoder([2048, 16, 8192], [16, 16, 128], 100_352, false), [
    bf16("allenai/OLMo-2-0425-1B-Instruct", 2_969_851_000),
    q8("allenai/OLMo-2-0425-1B-Instruct-GGUF", "OLMo-2-0425-1B-Instruct-Q8_0.gguf", 1_580_000_000),
    q4("allenai/OLMo-2-0425-1B-Instruct-GGUF", "OLMo-2-0425-1B-Instruct-Q4_K_M.gguf", 935_515_296),
  ]),
  mit("phi4-mini:3.8b", "phi3", decoder([3072, 32, 8192], [24, 8, 128], 200_064), [
    bf16("microsoft/Phi-4-mini-instruct", 7_672_066_000),
    q8("unsloth/Phi-4-mini-instruct-GGUF", "Phi-4-mini-instruct-Q8_0.gguf", 4_084_611_000),
    q4("unsloth/Phi-4-mini-instruct-GGUF", "Phi-4-mini-instruct-Q4_K_M.gguf", 2_491_874_272),
  ]),
  entry("tinyllama:1.1b", "llama", decoder([2048, 22, 5632], [32, 4, 64], 32_000, false), [
    bf16("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 2_200_119_864),
    q8("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "tinyllama-1.1b-chat-v1.0.Q8_0.gguf", 1_170_781_568),
    q4("TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", 668_788_096),
  ]),
  entry("mistral:7b", "mistral", decoder([4096, 32, 14_336], [32, 8, 128], 32_768, false), [
    gated("mistralai/Mistral-7B-Instruct-v0.3", 14_496_078_000),
    q8("bartowski/Mistral-7B-Instruct-v0.3-GGUF", "Mistral-7B-Instruct-v0.3-Q8_0.gguf", 7_702_565_000),
    q4("bartowski/Mistral-7B-Instruct-v0.3-GGUF", "Mistral-7B-Instruct-v0.3-Q4_K_M.gguf", 4_372_812_000),
  ]),
  entry("all-minilm:22m", "bert", encoder([384, 6, 1536, 12], 30_522, { tableRows: 514, numOthers: poolerOf(384) }), [
    f32("sentence-transformers/all-MiniLM-L6-v2", 90_868_376),
  ]),
  mit("bge-small:33m", "bert", SMALL_BERT, [f32("BAAI/bge-small-en-v1.5", 133_466_304)]),
  mit("gte-small:33m", "bert", SMALL_BERT, [{ weights: "f16", repository: "thenlper/gte-small", bytes: 66_746_168 }]),
  entry("snowflake-arctic-embed:33m", "bert", encoder([384, 12, 1536, 12], 30_522, { tableRows: 514 }), [
    f32("Snowflake/snowflake-arctic-embed-s", 132_870_000),
  ]),
  mit("e5-small:118m", "bert", encoder([384, 12, 1536, 12], 250_037, { tableRows: 514, numOthers: poolerOf(384) }), [
    f32("intfloat/multilingual-e5-small", 470_641_600),
  ]),
  entry(
    "all-mpnet:109m",
    "mpnet",
    encoder([768, 12, 3072, 12], 30_527, { tableRows: 514, numOthers: poolerOf(768) + 32 * 12 }),
    [f32("sentence-transformers/all-mpnet-base-v2", 437_967_672)],
  ),
  entry("nomic-embed-text:137m", "nomic_bert", encoder([768, 12, 3072, 12], 30_528, { tableRows: 2, isGated: true }), [
    f32("nomic-ai/nomic-embed-text-v1.5", 546_938_168),
  ]),
  mit(
    "bge-reranker:278m",
    "xlm-roberta",
    encoder([768, 12, 3072, 12], 250_002, { tableRows: 515, numOthers: poolerOf(768) + 769 }),
    [f32("BAAI/bge-reranker-base", 1_112_201_932)],
  ),
];

// A model with a short name, such as `qwen3:0.6b`: where its weights are, and what it needs.

/** Number type of published weights: that of a safetensors checkpoint, or a type of GGUF files. */
export type SourceWeights = "f32" | "f16" | "bf16" | "q8_0" | "q4_k_m";

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

/** Parts of an encoder besides its words and its layers. */
interface EncoderParts {
  /** Rows of its tables of positions and segments. */
  readonly tableRows: number;
  /** Weights of its pooler or classifier, and of distances. @default 0 */
  readonly numOthers?: number;
  /** Whether its FFNs have a gate, and its products no biases. @default false */
  readonly isGated?: boolean;
}

/** Sizes that determine how much memory a model needs. */
export interface ModelShape {
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly ffnSize: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  readonly vocabSize: number;
  /** Whether the head is the embedding table. */
  readonly isTied: boolean;
  /** Parts of an encoder, which has keys and values of one layer at a time. @default it is a decoder */
  readonly encoder?: EncoderParts;
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
  readonly shape: ModelShape;
  /** Sources, from the most exact weights to the smallest. The first that is not gated stands for the plain name. */
  readonly sources: readonly WeightSource[];
}

/** Number of parameters. Decoders' biases and norms of queries and keys, below a five-thousandth, are not counted. */
export function parametersOf({ shape }: KnownModel): number {
  const { vocabSize, hiddenSize, numLayers, ffnSize, isTied, encoder: parts } = shape;
  const table = vocabSize * hiddenSize * (isTied ? 1 : 2) + layerWeights(shape);
  if (!parts) return table + hiddenSize * (2 * numLayers + 1);
  const { tableRows, numOthers = 0, isGated = false } = parts;
  const biases = isGated ? 0 : 5 * hiddenSize + ffnSize;
  return table + hiddenSize * (tableRows + 2) + numLayers * (4 * hiddenSize + biases) + numOthers;
}

/** Weights of all layers: attention and feed-forward layers, with a gate unless an encoder has none. */
function layerWeights(shape: ModelShape): number {
  const { hiddenSize, numLayers, ffnSize, numHeads, numKvHeads, headSize, encoder: parts } = shape;
  const numProducts = parts && !parts.isGated ? 2 : 3;
  return numLayers * hiddenSize * (2 * headSize * (numHeads + numKvHeads) + numProducts * ffnSize);
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
/** The same of encoders, whose weights have at least 8 bits, in blocks of 32. Their table is no head. */
const EIGHT_BITS = [1.125, 2, 2] as const;
const ENCODER_BYTES: typeof WEIGHT_BYTES = { fp32: [4, 4, 4], int8: EIGHT_BITS, int4: EIGHT_BITS, file: EIGHT_BITS };
/** Node and the kernel without a model, and the vocabulary of a tokenizer. */
const [PROCESS_BYTES, TOKEN_BYTES] = [83e6, 220];
const CONTEXT_TOKENS = 2048;

/**
 * Estimates the memory of a process that runs a model with one sequence of 2,048 tokens, in bytes. `readme-moe plan`
 * counts exactly, but needs the model's files.
 */
export function memoryBytesOf({ shape }: KnownModel, precision: Precision): number {
  const { vocabSize, hiddenSize, isTied, numLayers, numKvHeads, headSize, encoder: parts } = shape;
  const [layers, head, embedding] = (parts ? ENCODER_BYTES : WEIGHT_BYTES)[precision];
  const table = (vocabSize + (parts?.tableRows ?? 0)) * hiddenSize;
  const weights = layerWeights(shape) * layers + table * (head + (isTied ? 0 : embedding));
  const keyBytes = precision === "fp32" ? 4 : 2;
  // A quarter more for the prefix cache, which encoders do not have.
  const numKeptLayers = parts ? 1 : 1.25 * numLayers;
  const keysAndValues = CONTEXT_TOKENS * 2 * numKeptLayers * numKvHeads * headSize * keyBytes;
  return Math.ceil(weights + keysAndValues + PROCESS_BYTES + vocabSize * TOKEN_BYTES);
}

/** Weights that are not quantised. A model has one of them. */
const WHOLE = ["f32", "f16", "bf16"] as const;

/** Weights that a precision takes, from the best to the last choice. Other ones are read as well, and converted. */
const PREFERRED: Readonly<Record<Precision, readonly SourceWeights[]>> = {
  fp32: [...WHOLE, "q8_0", "q4_k_m"],
  // Eight bits are taken over as they are; from bfloat16 they are rounded here, at twice the download.
  int8: ["q8_0", ...WHOLE, "q4_k_m"],
  int4: ["q4_k_m", "q8_0", ...WHOLE],
  file: ["q4_k_m", "q8_0", ...WHOLE],
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
