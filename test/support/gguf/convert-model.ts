// Conversion of a dense model to a GGUF file, as llama.cpp's converter and quantiser make it: matrices in one type, vectors
// in float32.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { GgufFile, type Model, type RopeConfig, ropeFrequencies, type TensorRef } from "@readme-moe/model";
import { familyOf } from "../../../packages/model/src/config/families.ts";
import { fusedModules } from "../../../packages/model/src/weights/tensor-parts.ts";
import { tensorRefs } from "../../../bench/engine/tensor-refs.ts";
import {
  GGUF_ALTERNATION_KEYS,
  GGUF_KEYS,
  GGUF_MIXTURE_KEYS,
  GGUF_MULTIPLIER_KEYS,
} from "../../../packages/model/src/config/gguf-config.ts";
import {
  hfNameOf,
  type HeadRows,
  type NamingFamily,
  pairedRowOf,
} from "../../../packages/model/src/gguf/gguf-tensor-store.ts";
import { randomFileBlocks } from "../kernel/random-weights.ts";
import { seededRandom } from "../random.ts";
import { expertTensors, type Matrix, type MatrixType, withoutExperts } from "./convert-mixture.ts";
import { blockValuesOf, type GgufInput, isBlockType, writeGguf } from "./write-gguf.ts";

export type Metadata = Parameters<typeof writeGguf>[2];
type Value = Metadata extends ReadonlyMap<string, infer Inner> ? Inner : never;

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
  gemma2: "NEOX", // case LLM_ARCH_GEMMA2
  gemma3: "NEOX", // case LLM_ARCH_GEMMA3
  qwen3moe: "NEOX", // case LLM_ARCH_QWEN3MOE
  olmoe: "NEOX", // case LLM_ARCH_OLMOE
  granitemoe: "NORM", // case LLM_ARCH_GRANITE_MOE
  phi3: "NEOX", // case LLM_ARCH_PHI3
  qwen2moe: "NEOX", // case LLM_ARCH_QWEN2MOE
  mistral3: "NORM", // case LLM_ARCH_MISTRAL3
};

const TOKEN_TYPES = { normal: 1, control: 3, unused: 5 } as const;

/** Converts a model with its tokenizer, matrices in Q8_0. */
export async function writeQ8Gguf(model: Model, path: string): Promise<void> {
  const tokenizer = model.path.endsWith(".gguf") ? await copiedTokenizer(model.path) : await madeTokenizer(model);
  await writeModelGguf(model, path, "Q8_0", tokenizer);
}

/**
 * Converts a model, with the tokenizer that `tokenizer` describes.
 *
 * @param matrixType - of matrices, in turn; one whose blocks do not fit a matrix is passed over
 * @param more - further tensors, in llama.cpp's terms
 */
export async function writeModelGguf(
  model: Model,
  path: string,
  matrixType: MatrixType | readonly MatrixType[],
  tokenizer: Metadata = new Map(),
  more: readonly GgufInput[] = [],
): Promise<void> {
  const types = typeof matrixType === "string" ? [matrixType] : matrixType;
  const tensors = [...tensorsOf(model, types), ...more];
  await writeGguf(path, tensors, new Map([...hyperparameters(model, types[0]), ...tokenizer]));
}

function tensorsOf({ config, weights }: Model, types: readonly MatrixType[]): readonly GgufInput[] {
  const { architecture } = familyOf(config.modelType);
  if (
    config.layers.some(
      ({ angleSet }, layer) => (angleSet !== undefined) === (architecture === "smollm3" && (layer + 1) % 4 === 0),
    )
  ) {
    throw new TypeError("Expected layers without RoPE where llama.cpp has them, which files cannot name");
  }
  const ropeType = ROPE_TYPES[architecture];
  if (ropeType === undefined) throw new TypeError(`Expected the RoPE type of \`${architecture}\` in ROPE_TYPES`);
  let turn = 0;
  const typeOf = (shape: readonly number[]): MatrixType => {
    if (shape.length < 2) return "F32";
    const inTurn = types.map((_, index) => types[(turn + index) % types.length] as MatrixType);
    turn++;
    return inTurn.find((type) => (shape.at(-1) ?? 0) % blockValuesOf(type) === 0) ?? "F16";
  };
  const others = fusedRefs(config, tensorRefs(withoutExperts(weights))).map((ref): Matrix => {
    const { name, shape } = ref;
    const isPaired = ropeType === "NORM" && /[qk]_proj/.test(name);
    const isNorm = name.endsWith("norm.weight");
    const floats = isPaired
      ? () => readPairedRows(ref, config)
      : async (): Promise<Float32Array> => {
          const values = joined(await Promise.all(ref.refs.map((part) => part.store.readFloats(part.name))));
          return isNorm ? values.map((value) => value + config.normOffset) : values;
        };
    const ggmlName = ggmlNameOf(name, familyOf(config.modelType));
    return { name: ggmlName, type: typeOf(shape), shape, floats };
  });
  const tensors = [...others, ...expertTensors(weights, typeOf)].map(inputOf);
  const factors = Object.entries(ropeFactors(config)).map(([name, values]): GgufInput => {
    return { name: `${name}.weight`, type: "F32", shape: [values.length], floats: () => Promise.resolve(values) };
  });
  return [...tensors, ...factors];
}

const GGML_PARTS = `token_embd output output_norm attn_q attn_k attn_v attn_qkv attn_output attn_q_norm attn_k_norm
  attn_norm post_attention_norm ffn_norm post_ffw_norm ffn_gate ffn_up ffn_down ffn_gate_inp ffn_gate_exps ffn_up_exps
  ffn_down_exps ffn_gate_up_exps ffn_gate_shexp ffn_up_shexp ffn_down_shexp`.split(/\s+/);

/** Finds the name in a GGUF file that `hfNameOf` translates to a name; the name itself if there is none. */
export function ggmlNameOf(hfName: string, family?: NamingFamily): string {
  const [, layer, kind = ""] = /^(?:model\.layers\.(\d+)\.)?.*\.(weight|bias)$/.exec(hfName) ?? [];
  const block = layer === undefined ? "" : `blk.${layer}.`;
  const names = GGML_PARTS.map((part) => `${block}${part}.${kind}`);
  return names.find((name) => hfNameOf(name, family) === hfName) ?? hfName;
}

/** Gives a tensor of a type without a quantiser random blocks, whose weights are about as large as usual ones. */
function inputOf({ name, type, shape, floats }: Matrix): GgufInput {
  if (!isBlockType(type)) return { name, type, shape, floats };
  const numValues = shape.reduce((product, size) => product * size, 1);
  const size = 1 / Math.sqrt(shape.at(-1) ?? 1);
  const blocks = (): Uint8Array => randomFileBlocks(seededRandom(crc32(name)), type, { numValues, size });
  return { name, type, shape, blocks };
}

/** A tensor of the file: one of the model, or the rows of several. */
interface FileTensor extends TensorRef {
  readonly refs: readonly TensorRef[];
}

/** Joins products whose rows are in one tensor of the family's files, at the place of the first one (Phi-3). */
function fusedRefs(config: Model["config"], refs: readonly TensorRef[]): readonly FileTensor[] {
  const modules = familyOf(config.modelType).fused?.qkv === undefined ? [] : fusedModules(config);
  return refs.flatMap((ref): readonly FileTensor[] => {
    const [, prefix = "", module = "", kind = ""] = /^(model\.layers\.\d+\.)(.+)\.(weight|bias)$/.exec(ref.name) ?? [];
    const [name, parts] = Array.from(modules).find(([, all]) => all.some((one) => one.module === module)) ?? [];
    if (name === undefined || parts === undefined) return [{ ...ref, refs: [ref] }];
    if (parts[0]?.module !== module) return [];
    const own = parts.map(
      (part) => refs.find((other) => other.name === `${prefix}${part.module}.${kind}`) as TensorRef,
    );
    const numRows = own.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
    return [{ ...ref, name: `${prefix}${name}.${kind}`, shape: [numRows, ...ref.shape.slice(1)], refs: own }];
  });
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const values = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let done = 0;
  for (const part of parts) {
    values.set(part, done);
    done += part.length;
  }
  return values;
}

/** Reads rows of queries or keys by rotary pairs. */
export async function readPairedRows(
  { store, name, shape }: Pick<TensorRef, "store" | "name" | "shape">,
  head: HeadRows,
): Promise<Float32Array> {
  const values = await store.readFloats(name);
  const [numRows = 0] = shape;
  const rowLength = values.length / numRows;
  const paired = new Float32Array(values.length);
  for (let row = 0; row < numRows; row++) {
    paired.set(values.subarray(row * rowLength, (row + 1) * rowLength), pairedRowOf(row, head) * rowLength);
  }
  return paired;
}

/** RoPE of the layers that see all positions, or of all layers if none does. */
function wholeRope({ layers, ropes }: Model["config"]): RopeConfig {
  const isWhole = layers.find(({ slidingWindow, angleSet }) => slidingWindow === undefined && angleSet !== undefined);
  return ropes[isWhole?.angleSet ?? 0]!;
}

/** Tensors of divisors of the frequencies by name, unless they are all the same. */
function ropeFactors(config: Model["config"]): Readonly<Record<string, Float32Array>> {
  const { rotatedSize } = config;
  const rope = wholeRope(config);
  if (rope.type === "longrope") {
    return {
      rope_factors_long: Float32Array.from(rope.longFactors),
      rope_factors_short: Float32Array.from(rope.shortFactors),
    };
  }
  if (rope.type !== "llama3" && rope.type !== "factors") return {};
  const stretched = ropeFrequencies(rope, rotatedSize);
  const plain = ropeFrequencies({ type: "default", theta: rope.theta }, rotatedSize);
  return { rope_freqs: plain.map((frequency, pair) => frequency / (stretched[pair] ?? 1)) };
}

/** Describes a model's shape as llama.cpp's converter does. */
export function hyperparameters({ config }: Pick<Model, "config">, matrixType?: MatrixType): Metadata {
  const { multipliers, alternation, bothDirections, ...family } = familyOf(config.modelType);
  const architecture = (config.encoder && bothDirections?.architecture) ?? family.architecture;
  const rope = wholeRope(config);
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
    ["rope.freq_base", float32(rope.theta)],
    ["rope.dimension_count", uint32(config.rotatedSize)],
    ["vocab_size", uint32(config.vocabSize)],
  ]);
  if (rope.type === "linear") {
    own.set("rope.scaling.type", { type: "string", value: "linear" });
    own.set("rope.scaling.factor", float32(rope.factor));
  }
  if (rope.type === "yarn") {
    own.set("rope.scaling.type", { type: "string", value: "yarn" });
    own.set("rope.scaling.factor", float32(rope.factor));
    own.set("rope.scaling.original_context_length", uint32(rope.originalContextTokens));
    own.set("rope.scaling.yarn_beta_fast", float32(rope.fastTurns));
    own.set("rope.scaling.yarn_beta_slow", float32(rope.slowTurns));
    if (rope.attentionFactor === 1) own.set("rope.scaling.yarn_log_multiplier", float32(1));
  }
  if (alternation) {
    const first = config.layers.find(({ slidingWindow }) => slidingWindow !== undefined);
    const window = first?.slidingWindow ?? 0;
    // The window of both sides together.
    own.set("attention.sliding_window", uint32(config.encoder ? 2 * window - 1 : window));
    const whole = config.layers.findIndex(({ slidingWindow }) => slidingWindow === undefined);
    if (alternation.theta) {
      own.set(GGUF_ALTERNATION_KEYS.theta, float32(config.ropes[first?.angleSet ?? 0]?.theta ?? 10000));
      own.set(GGUF_ALTERNATION_KEYS.interval, uint32(whole + 1));
    }
  }
  if (config.caps?.scores) own.set("attn_logit_softcapping", float32(config.caps.scores));
  if (config.caps?.logits) own.set("final_logit_softcapping", float32(config.caps.logits));
  if (config.mixture) {
    own.set(GGUF_MIXTURE_KEYS.num_local_experts, uint32(config.mixture.numExperts));
    own.set(GGUF_MIXTURE_KEYS.num_experts_per_tok, uint32(config.mixture.expertsPerToken));
    own.set(GGUF_MIXTURE_KEYS.moe_intermediate_size, uint32(config.mixture.expertSize));
    if (config.mixture.sharedSize > 0) {
      own.set("expert_shared_feed_forward_length", uint32(config.mixture.sharedSize));
    }
  }
  if (rope.type === "longrope") {
    own.set("rope.scaling.original_context_length", uint32(rope.originalContextTokens));
    own.set("rope.scaling.attn_factor", float32(rope.attentionFactor));
  }
  // The converter of other families does not write their windows.
  if (architecture === "phi3") own.set("attention.sliding_window", uint32(config.layers[0]?.slidingWindow ?? 0));
  if (multipliers) {
    own.set(GGUF_MULTIPLIER_KEYS.embedding, float32(config.embeddingScale));
    own.set(GGUF_MULTIPLIER_KEYS.residual, float32(config.residualScale));
    own.set(GGUF_MULTIPLIER_KEYS.attention, float32(config.attentionScale));
    own.set(GGUF_MULTIPLIER_KEYS.logits, float32(1 / config.logitScale));
  }
  for (const [key, value] of recurrenceKeys(config)) own.set(key, value);
  return new Map<string, Value>([
    ["general.architecture", { type: "string", value: architecture }],
    ...(matrixType === "Q8_0" ? [["general.file_type", uint32(MOSTLY_Q8_0)] as [string, Value]] : []),
    ["general.quantization_version", uint32(2)],
    ...Array.from(own, ([key, value]): [string, Value] => [`${architecture}.${key}`, value]),
  ]);
}

/** Describes layers with a recurrence, and which layers have heads of keys. */
function recurrenceKeys(config: Model["config"]): readonly (readonly [string, Value])[] {
  const { recurrence, layers, numKvHeads, modelType } = config;
  // Readers expect attention in every fourth layer of a file that does not say.
  if (!recurrence) return modelType.startsWith("qwen3_5") ? [["full_attention_interval", uint32(1)]] : [];
  const { kind, numTaps, numKeyHeads, keySize, numValueHeads, valueSize } = recurrence;
  if (kind === "convolution") {
    const value = layers.map(({ isRecurrent }) => (isRecurrent ? 0 : numKvHeads));
    return [
      ["shortconv.l_cache", uint32(numTaps)],
      ["attention.head_count_kv", { type: "array", of: "int32", value }],
    ];
  }
  return [
    ["ssm.conv_kernel", uint32(numTaps)],
    ["ssm.state_size", uint32(keySize)],
    ["ssm.group_count", uint32(numKeyHeads)],
    ["ssm.time_step_rank", uint32(numValueHeads)],
    ["ssm.inner_size", uint32(numValueHeads * valueSize)],
    ["full_attention_interval", uint32(1 + layers.findIndex(({ isRecurrent }) => !isRecurrent))],
    // Parts of rotated pairs for time and for the two sides of images, which are the same for text.
    ["rope.dimension_sections", { type: "array", of: "int32", value: [11, 11, 10, 0] }],
  ];
}

async function copiedTokenizer(path: string): Promise<Metadata> {
  const file = await GgufFile.open(path);
  await file.close();
  const entries = Array.from(file.metadata).filter(([key]) => key.startsWith("tokenizer."));
  return new Map(entries.flatMap(([key, value]) => toInput(key, value)));
}

/**
 * Converts a model of Qwen3's family as llama.cpp's converter does for embeddings and ranking.
 *
 * @param own - metadata that says how the file pools
 * @param classifier - rows of `cls.output.weight`
 */
export async function writePoolingGguf(
  model: Model,
  path: string,
  own: Readonly<Record<string, unknown>>,
  classifier?: readonly Float32Array[],
): Promise<void> {
  const parts = {
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.add_eos_token": true,
    ...own,
  };
  const texts = [
    ...(await madeTokenizer(model)),
    ...Object.entries(parts).flatMap(([key, value]) => toInput(key, value)),
  ];
  const more = classifier && {
    name: "cls.output.weight",
    type: "F32" as const,
    shape: [classifier.length, model.config.hiddenSize],
    floats: async () => joined(classifier),
  };
  await writeModelGguf(model, path, "F32", new Map(texts), more ? [more] : []);
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

/** Makes a tokenizer with the right ids only: prompts are token ids. Ids without a token of the folder are unused. */
export async function madeTokenizer({ path, config }: Pick<Model, "path" | "config">): Promise<Metadata> {
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
