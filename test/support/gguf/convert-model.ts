// Conversion of a dense model to a GGUF file, as llama.cpp's converter and quantiser make it: matrices in one type, vectors
// in float32.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { GgufFile, type Model, ropeFrequencies, type TensorRef } from "@readme-moe/model";
import { familyOf } from "../../../packages/model/src/config/families.ts";
import { tensorRefs } from "../../../bench/engine/tensor-refs.ts";
import { GGUF_KEYS, GGUF_MULTIPLIER_KEYS } from "../../../packages/model/src/config/gguf-config.ts";
import { pairedRowOf } from "../../../packages/model/src/gguf/gguf-tensor-store.ts";
import { ggmlNameOf } from "../../../packages/model/src/gguf/tensor-names.ts";
import { GGUF_MIXTURE_KEYS } from "../../../packages/model/src/config/gguf-mixture.ts";
import { expertTensors, withoutExperts } from "./convert-mixture.ts";
import { type GgufInput, type OutputType, writeGguf } from "./write-gguf.ts";

type Metadata = Parameters<typeof writeGguf>[2];
type Value = Metadata extends ReadonlyMap<string, infer Inner> ? Inner : never;

const Q8_BLOCK = 32;
const MOSTLY_Q8_0 = 7;

/**
 * Order of the rows of queries and keys by architecture, from `llama_model_rope_type` in llama.cpp's
 * src/llama-model.cpp: `LLAMA_ROPE_TYPE_NORM` ("operating on pairs of consecutive head values") needs rows by pairs,
 * `LLAMA_ROPE_TYPE_NEOX` ("the pairs of head values are offset by n_rot/2") the order of Hugging Face. A table of the
 * tests' own, so that a wrong `hasPairedRows` of a family fails.
 */
const ROPE_TYPES: Readonly<Record<string, "NORM" | "NEOX">> = {
  llama: "NORM", // case LLM_ARCH_LLAMA; also files of Mistral
  granite: "NORM", // case LLM_ARCH_GRANITE
  smollm3: "NORM", // case LLM_ARCH_SMOLLM3
  qwen2: "NEOX", // case LLM_ARCH_QWEN2
  qwen3: "NEOX", // case LLM_ARCH_QWEN3
  olmo2: "NEOX", // case LLM_ARCH_OLMO2
  qwen3moe: "NEOX", // case LLM_ARCH_QWEN3MOE
  olmoe: "NEOX", // case LLM_ARCH_OLMOE
  granitemoe: "NORM", // case LLM_ARCH_GRANITE_MOE
};

const TOKEN_TYPES = { normal: 1, control: 3, unused: 5 } as const;

/** Converts a model with its tokenizer, matrices in Q8_0. */
export async function writeQ8Gguf(model: Model, path: string): Promise<void> {
  const tokenizer = model.path.endsWith(".gguf") ? await copiedTokenizer(model.path) : await madeTokenizer(model);
  await writeModelGguf(model, path, "Q8_0", tokenizer);
}

/** Converts a model, with the tokenizer that `tokenizer` describes. */
export async function writeModelGguf(
  model: Model,
  path: string,
  matrixType: OutputType,
  tokenizer: Metadata = new Map(),
): Promise<void> {
  const tensors = tensorsOf(model, matrixType);
  await writeGguf(path, tensors, new Map([...hyperparameters(model, matrixType), ...tokenizer]));
}

function tensorsOf({ config, weights }: Model, matrixType: OutputType): readonly GgufInput[] {
  const { architecture } = familyOf(config.modelType);
  const ropeType = ROPE_TYPES[architecture];
  if (ropeType === undefined) throw new TypeError(`Expected the RoPE type of \`${architecture}\` in ROPE_TYPES`);
  const typeOf = (shape: readonly number[]): OutputType => {
    if (shape.length < 2) return "F32";
    return matrixType === "Q8_0" && (shape.at(-1) ?? 0) % Q8_BLOCK !== 0 ? "F16" : matrixType;
  };
  const others = tensorRefs(withoutExperts(weights)).map((ref): GgufInput => {
    const { name, shape } = ref;
    const isPaired = ropeType === "NORM" && /[qk]_proj/.test(name);
    const floats = isPaired
      ? () => readPairedRows(ref, config.headSize)
      : (): Promise<Float32Array> => ref.store.readFloats(name);
    return { name: ggmlNameOf(name, config.norms), type: typeOf(shape), shape, floats };
  });
  const tensors = [...others, ...expertTensors(weights, typeOf)];
  const factors = ropeFactors(config);
  if (!factors) return tensors;
  const shape = [factors.length];
  return [...tensors, { name: "rope_freqs.weight", type: "F32", shape, floats: () => Promise.resolve(factors) }];
}

/** Reads rows of queries or keys by rotary pairs. */
export async function readPairedRows(
  { store, name, shape }: Pick<TensorRef, "store" | "name" | "shape">,
  headSize: number,
): Promise<Float32Array> {
  const values = await store.readFloats(name);
  const [numRows = 0] = shape;
  const rowLength = values.length / numRows;
  const paired = new Float32Array(values.length);
  for (let row = 0; row < numRows; row++) {
    paired.set(values.subarray(row * rowLength, (row + 1) * rowLength), pairedRowOf(row, headSize) * rowLength);
  }
  return paired;
}

/** Divisors of the frequencies, unless they are all the same. */
function ropeFactors({ rope, headSize }: Model["config"]): Float32Array | undefined {
  if (rope.type !== "llama3" && rope.type !== "factors") return undefined;
  const stretched = ropeFrequencies(rope, headSize);
  return ropeFrequencies({ type: "default", theta: rope.theta }, headSize).map(
    (frequency, pair) => frequency / (stretched[pair] ?? 1),
  );
}

function hyperparameters({ config }: Model, matrixType: OutputType): Metadata {
  const { architecture, multipliers } = familyOf(config.modelType);
  const own = new Map<string, Value>([
    [GGUF_KEYS.max_position_embeddings, uint32(config.contextTokens)],
    [GGUF_KEYS.hidden_size, uint32(config.hiddenSize)],
    [GGUF_KEYS.num_hidden_layers, uint32(config.numLayers)],
    [GGUF_KEYS.intermediate_size, uint32(config.intermediateSize)],
    [GGUF_KEYS.num_attention_heads, uint32(config.numHeads)],
    ["attention.head_count_kv", uint32(config.numKvHeads)],
    ["attention.key_length", uint32(config.headSize)],
    ["attention.value_length", uint32(config.headSize)],
    [GGUF_KEYS.rms_norm_eps, float32(config.rmsNormEpsilon)],
    ["rope.freq_base", float32(config.rope.theta)],
    ["rope.dimension_count", uint32(config.headSize)],
    ["vocab_size", uint32(config.vocabSize)],
  ]);
  if (config.rope.type === "linear") {
    own.set("rope.scaling.type", { type: "string", value: "linear" });
    own.set("rope.scaling.factor", float32(config.rope.factor));
  }
  if (config.mixture) {
    own.set(GGUF_MIXTURE_KEYS.num_local_experts, uint32(config.mixture.numExperts));
    own.set(GGUF_MIXTURE_KEYS.num_experts_per_tok, uint32(config.mixture.expertsPerToken));
    own.set(GGUF_MIXTURE_KEYS.moe_intermediate_size, uint32(config.mixture.expertSize));
  }
  if (multipliers) {
    own.set(GGUF_MULTIPLIER_KEYS.embedding, float32(config.embeddingScale));
    own.set(GGUF_MULTIPLIER_KEYS.residual, float32(config.residualScale));
    own.set(GGUF_MULTIPLIER_KEYS.attention, float32(config.attentionScale));
    own.set(GGUF_MULTIPLIER_KEYS.logits, float32(1 / config.logitScale));
  }
  return new Map<string, Value>([
    ["general.architecture", { type: "string", value: architecture }],
    ...(matrixType === "Q8_0" ? [["general.file_type", uint32(MOSTLY_Q8_0)] as [string, Value]] : []),
    ["general.quantization_version", uint32(2)],
    ...Array.from(own, ([key, value]): [string, Value] => [`${architecture}.${key}`, value]),
  ]);
}

async function copiedTokenizer(path: string): Promise<Metadata> {
  const file = await GgufFile.open(path);
  await file.close();
  const entries = Array.from(file.metadata).filter(([key]) => key.startsWith("tokenizer."));
  return new Map(entries.flatMap(([key, value]) => toInput(key, value)));
}

/** Finds the type of a tokenizer's key by its value. */
function toInput(key: string, value: unknown): readonly [string, Value][] {
  if (typeof value === "string") return [[key, { type: "string", value }]];
  if (typeof value === "boolean") return [[key, { type: "bool", value }]];
  if (typeof value === "number") return [[key, uint32(value)]];
  if (value instanceof Int32Array) return [[key, { type: "array", of: "int32", value }]];
  if (value instanceof Float32Array) return [[key, { type: "array", of: "float32", value }]];
  const isTexts = Array.isArray(value) && value.every((text) => typeof text === "string");
  return isTexts ? [[key, { type: "array", of: "string", value }]] : [];
}

interface TokenizerJson {
  readonly added_tokens?: readonly { readonly id: number; readonly content: string }[];
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly string[])[];
  };
}

/** Makes a tokenizer with the right ids only: prompts are token ids. */
async function madeTokenizer({ path, config }: Model): Promise<Metadata> {
  const text = await readFile(join(path, "tokenizer.json"), "utf8");
  const { added_tokens: added = [], model } = JSON.parse(text) as TokenizerJson;
  const tokens = Array.from({ length: config.vocabSize }, (_, id) => `[UNUSED_${id}]`);
  const types = new Int32Array(config.vocabSize).fill(TOKEN_TYPES.unused);
  const put = (id: number, token: string, type: number): void => {
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(model.vocab)) put(id, token, TOKEN_TYPES.normal);
  for (const { id, content } of added) put(id, content, TOKEN_TYPES.control);
  const merges = model.merges.map((merge) => (typeof merge === "string" ? merge : merge.join(" ")));
  const eos = config.eosTokenIds[0] ?? 0;
  return new Map<string, Value>([
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: "gpt-2" }],
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "array", of: "int32", value: types }],
    ["tokenizer.ggml.merges", { type: "array", of: "string", value: merges }],
    ["tokenizer.ggml.bos_token_id", uint32(config.bosTokenId ?? eos)],
    ["tokenizer.ggml.eos_token_id", uint32(eos)],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: false }],
  ]);
}

function uint32(value: number): Value {
  return { type: "uint32", value };
}

function float32(value: number): Value {
  return { type: "float32", value };
}
