// Writes a dense model as a GGUF file for llama.cpp: matrices in Q8_0 and vectors in float32, like its own quantizer.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  ggmlNameOf,
  GgufFile,
  type GgufInput,
  type Model,
  ropeFrequencies,
  toGgufRowOrder,
  writeGguf,
} from "@readme-moe/model";
import { tensorRefs } from "./tensor-refs.ts";

type Metadata = Parameters<typeof writeGguf>[2];
type Value = Metadata extends ReadonlyMap<string, infer Inner> ? Inner : never;

const ARCHITECTURES = { llama: "llama", mistral: "llama", qwen2: "qwen2", qwen3: "qwen3" } as const;
const Q8_BLOCK = 32;
const MOSTLY_Q8_0 = 7;
const TOKEN_TYPES = { normal: 1, control: 3, unused: 5 } as const;

export async function writeQ8Gguf(model: Model, path: string): Promise<void> {
  const tokenizer = model.path.endsWith(".gguf") ? await copiedTokenizer(model.path) : await madeTokenizer(model);
  await writeGguf(path, tensorsOf(model), new Map([...hyperparameters(model), ...tokenizer]));
}

function tensorsOf({ config, weights }: Model): readonly GgufInput[] {
  const isLlama = ARCHITECTURES[config.modelType] === "llama";
  const tensors = tensorRefs(weights).map(({ store, name, shape }): GgufInput => {
    const heads = /q_proj/.test(name) ? config.numHeads : /k_proj/.test(name) ? config.numKvHeads : undefined;
    const floats = async (): Promise<Float32Array> => {
      const values = await store.readFloats(name);
      return isLlama && heads !== undefined ? toGgufRowOrder(values, shape[0] ?? 0, heads) : values;
    };
    const isMatrix = shape.length === 2;
    const type = !isMatrix ? "F32" : (shape[1] ?? 0) % Q8_BLOCK === 0 ? "Q8_0" : "F16";
    return { name: ggmlNameOf(name), type, shape, floats };
  });
  const factors = ropeFactors(config);
  if (!factors) return tensors;
  const shape = [factors.length];
  return [...tensors, { name: "rope_freqs.weight", type: "F32", shape, floats: () => Promise.resolve(factors) }];
}

/** Returns the divisor of each frequency, when they differ. */
function ropeFactors({ rope, headSize }: Model["config"]): Float32Array | undefined {
  if (rope.type !== "llama3" && rope.type !== "factors") return undefined;
  const stretched = ropeFrequencies(rope, headSize);
  return ropeFrequencies({ type: "default", theta: rope.theta }, headSize).map(
    (frequency, pair) => frequency / (stretched[pair] ?? 1),
  );
}

function hyperparameters({ config }: Model): Metadata {
  const architecture = ARCHITECTURES[config.modelType];
  const own = new Map<string, Value>([
    ["context_length", uint32(config.contextTokens)],
    ["embedding_length", uint32(config.hiddenSize)],
    ["block_count", uint32(config.numLayers)],
    ["feed_forward_length", uint32(config.intermediateSize)],
    ["attention.head_count", uint32(config.numHeads)],
    ["attention.head_count_kv", uint32(config.numKvHeads)],
    ["attention.key_length", uint32(config.headSize)],
    ["attention.value_length", uint32(config.headSize)],
    ["attention.layer_norm_rms_epsilon", { type: "float32", value: config.rmsNormEpsilon }],
    ["rope.freq_base", { type: "float32", value: config.rope.theta }],
    ["rope.dimension_count", uint32(config.headSize)],
    ["vocab_size", uint32(config.vocabSize)],
  ]);
  if (config.rope.type === "linear") {
    own.set("rope.scaling.type", { type: "string", value: "linear" });
    own.set("rope.scaling.factor", { type: "float32", value: config.rope.factor });
  }
  return new Map<string, Value>([
    ["general.architecture", { type: "string", value: architecture }],
    ["general.file_type", uint32(MOSTLY_Q8_0)],
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

/** Returns the GGUF type of a tokenizer's value. */
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

/** Makes a tokenizer in which only the ids are right: prompts are token ids. */
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
