// Reads a GGUF file's metadata into a ModelConfig. Its values are passed to the reader of config.json under that
// file's field names. A tied head, biases and RoPE factors follow from the tensors.

import { describeValue, ReadMeError } from "@readme-moe/core";
import { invalid, quoted, unsupported } from "../files/errors.ts";
import type { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { countValues } from "../tensor-store.ts";
import { ARCHITECTURES, familyOf, modelTypeOf, unsupportedKind } from "./families.ts";
import type { Alternation, Family, MixtureFields, Multipliers } from "./family.ts";
import { MOST } from "./fields.ts";
import { ENCODER_ARCHITECTURES, encoderFamily, encoderTypeOf, ggufEncoderFields } from "./encoder-config.ts";
import type { DenseConfig, ModelConfig, PoolingConfig, PoolingMode } from "./model-config.ts";
import { parseConfig } from "./parse-config.ts";

/** Metadata keys, behind the architecture's name, by config.json's field. */
export const GGUF_KEYS: Readonly<Record<GgufField, string>> = {
  hidden_size: "embedding_length",
  intermediate_size: "feed_forward_length",
  num_hidden_layers: "block_count",
  num_attention_heads: "attention.head_count",
  rms_norm_eps: "attention.layer_norm_rms_epsilon",
  max_position_embeddings: "context_length",
};

type GgufField =
  | "hidden_size"
  | "intermediate_size"
  | "num_hidden_layers"
  | "num_attention_heads"
  | "rms_norm_eps"
  | "max_position_embeddings";

/** Metadata keys of a family's factors. */
export const GGUF_MULTIPLIER_KEYS: Readonly<Record<keyof Multipliers, string>> = {
  embedding: "embedding_scale",
  residual: "residual_scale",
  attention: "attention.scale",
  logits: "logit_scale",
};

/** Tensor with Llama 3's factors, one per pair of dimensions; converters compute them from the config's parameters. */
const ROPE_FACTORS = "rope_freqs.weight";

/** Tensors with LongRoPE's factors, one per pair of dimensions. */
const LONG_FACTORS = "rope_factors_long.weight";
const SHORT_FACTORS = "rope_factors_short.weight";

/**
 * Reads the config of an open GGUF file.
 *
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming an architecture, a key or a scaling that is not supported
 */
export async function ggufConfig(store: GgufTensorStore): Promise<ModelConfig> {
  const { metadata, path } = store.file;
  const refused = (what: string): ReadMeError => unsupported(path, what);
  const architecture = metadata.get("general.architecture");
  const get = (key: string): unknown => metadata.get(`${String(architecture)}.${key}`);
  const isMixture = numberOf(get("expert_count")) > 0;
  const encoderType = encoderTypeOf(architecture);
  if (encoderType !== undefined) return ggufEncoder(store, encoderType, get);
  const hasShared = numberOf(get(SHARED_KEY)) > 0;
  const hasWindow = numberOf(get("attention.sliding_window")) > 0;
  const hasSigmoids = get(GATING_KEY) === SIGMOIDS;
  const modelType = modelTypeOf(architecture, { isMixture, hasShared, hasWindow, hasSigmoids });
  if (modelType === undefined) {
    const named = `\`${quoted(String(architecture)).slice(1, -1)}\`${unsupportedKind(String(architecture))}`;
    throw refused(
      `the architecture ${named} is not supported; supported are ${[...ARCHITECTURES, ...ENCODER_ARCHITECTURES].join(", ")}`,
    );
  }
  const family = familyOf(modelType);
  const { mixture, multipliers, bothDirections, ropeField } = family;
  const isEncoder = bothDirections?.architecture === architecture;
  if (isMixture && !mixture) {
    throw refused(`mixtures of experts of the architecture \`${String(architecture)}\` are not supported`);
  }
  // llama.cpp's models/granite.cpp: "Granite uses rope_finetuned as a switch for rope".
  const hasRope = get("rope.scaling.finetuned") !== false;
  if (multipliers !== undefined && !hasRope && ropeField === undefined) {
    throw refused("Granite without RoPE is not supported");
  }
  const heads = get("attention.head_count");
  const headSize = get("attention.key_length") ?? numberOf(get("embedding_length")) / numberOf(heads);
  const fields = {
    model_type: modelType,
    ...Object.fromEntries(Object.entries(GGUF_KEYS).map(([field, key]) => [field, get(key)])),
    ...multiplierFields(multipliers, get, numberOf(headSize)),
    ...alternationFields(family, get, numberOf(headSize)),
    ...recurrenceFields(store, family, get),
    ...windowFields(family, get),
    ...(ropeField && { [ropeField]: hasRope ? "rope" : "nope" }),
    ...(mixture && ggufMixtureFields(mixture, path, get)),
    ...(family.isLatent && latentFields(get)),
    original_max_position_embeddings: get("rope.scaling.original_context_length") ?? get("context_length"),
    vocab_size: store.info("model.embed_tokens.weight").shape[0],
    num_key_value_heads: mostOf(get("attention.head_count_kv")) ?? heads,
    head_dim: headSize,
    rope_parameters: {
      rope_theta: get("rope.freq_base"),
      ...((await longRope(store, get)) ?? ropeScaling(get)),
      ...family.ggufRope,
    },
    ...(await layerFields(store, family, get)),
    ...(bothDirections && { [bothDirections.field]: isEncoder }),
    // Read by families with windows in GGUF files, whose layers alternate, or that refuse these.
    sliding_window: get("attention.sliding_window"),
    attn_logit_softcapping: get("attn_logit_softcapping"),
    final_logit_softcapping: get("final_logit_softcapping"),
    attention_bias: store.has("model.layers.0.self_attn.o_proj.bias"),
    mlp_bias: store.has("model.layers.0.mlp.gate_proj.bias"),
    tie_word_embeddings: !store.has("lm_head.weight"),
    bos_token_id: metadata.get("tokenizer.ggml.bos_token_id"),
    eos_token_id: endsOf(family, metadata),
  };
  const rotated = get(family.layerSizes ? "rope.dimension_count_swa" : "rope.dimension_count");
  const pooling = isEncoder ? encoderPooling(store, get) : ggufPooling(store, get);
  const parsed = parseConfig(path, fields, undefined, rotated === undefined ? undefined : numberOf(rotated));
  const config = { ...parsed, pooling };
  if (!store.has(ROPE_FACTORS) || family.layerSizes) return config;
  const factors = await readFactors(store, ROPE_FACTORS);
  const numPairs = config.rotatedSize / 2;
  if (factors.length !== numPairs || !factors.every((factor) => factor > 0 && Number.isFinite(factor))) {
    throw invalid(path, `expected tensor ${ROPE_FACTORS} to hold ${numPairs} positive numbers`);
  }
  return { ...config, ropes: config.ropes.map(({ theta }) => ({ type: "factors", theta, factors })) };
}

/** Reads what differs by layer in Gemma 4. Factors of frequencies tell the share of pairs that rotate. */
async function layerFields(
  store: GgufTensorStore,
  { layerSizes }: Family,
  get: (key: string) => unknown,
): Promise<object> {
  if (!layerSizes) return {};
  const pattern = listOf(get(GGUF_ALTERNATION_KEYS.interval)) ?? [];
  const of = (value: unknown, isSliding: boolean): unknown =>
    listOf(value)?.[pattern.findIndex((one) => Boolean(one) === isSliding)] ?? value;
  const heads = get("attention.head_count_kv");
  const sizes = listOf(get(GGUF_KEYS.intermediate_size))?.map(Number);
  const factors = store.has(ROPE_FACTORS) ? await readFactors(store, ROPE_FACTORS) : [1];
  // Half a pair more, so that no pair is lost where the share is multiplied by their number again.
  const share = Math.min(1, (factors.filter((factor) => factor === 1).length + 0.5) / factors.length);
  const full = pattern.findIndex((isSliding) => !isSliding);
  return {
    ...(sizes && { intermediate_size: sizes[0], use_double_wide_mlp: new Set(sizes).size > 1 }),
    head_dim: get("attention.key_length_swa"),
    global_head_dim: get("attention.key_length"),
    num_key_value_heads: of(heads, true),
    num_global_key_value_heads: of(heads, false),
    attention_k_eq_v: !store.has(`model.layers.${full}.self_attn.v_proj.weight`),
    num_kv_shared_layers: get("attention.shared_kv_layers"),
    hidden_size_per_layer_input: get("embedding_length_per_layer_input"),
    rope_parameters: {
      full_attention: { rope_type: "proportional", partial_rotary_factor: share, rope_theta: get("rope.freq_base") },
      sliding_attention: { rope_type: "default", rope_theta: get(GGUF_ALTERNATION_KEYS.theta) },
    },
  };
}

/** Lists the tokens that end a completion: those that the file names, or the end of text and the family's own. */
function endsOf({ ggufEnds }: Family, metadata: ReadonlyMap<string, unknown>): readonly unknown[] {
  const tokens = metadata.get("tokenizer.ggml.tokens");
  const named = (ggufEnds ? ["eos"] : ["eos", "eot", "eom"]).flatMap(
    (name) => metadata.get(`tokenizer.ggml.${name}_token_id`) ?? [],
  );
  const ofFamily = ggufEnds && Array.isArray(tokens) ? ggufEnds.map((text) => tokens.indexOf(text)) : [];
  return [...named, ...ofFamily.filter((id) => id >= 0)];
}

/** Returns a list of metadata as an array; `undefined` for another value. */
function listOf(value: unknown): readonly unknown[] | undefined {
  if (ArrayBuffer.isView(value)) return Array.from(value as Int32Array);
  return Array.isArray(value) ? value : undefined;
}

/** Returns the largest of numbers by layer, since layers without attention have 0; another value as it is. */
function mostOf(value: unknown): unknown {
  const list = listOf(value) ?? [];
  return list.length > 0 ? Math.max(...list.map(Number)) : value;
}

/** Reads the sizes of latent attention; older files have those of heads as they are where newer ones have the key's. */
function latentFields(get: (key: string) => unknown): object {
  const rotated = numberOf(get("rope.dimension_count"));
  return {
    q_lora_rank: get("attention.q_lora_rank"),
    kv_lora_rank: get("attention.kv_lora_rank"),
    qk_rope_head_dim: rotated,
    qk_nope_head_dim: numberOf(get("attention.key_length_mla") ?? get("attention.key_length")) - rotated,
    v_head_dim: get("attention.value_length_mla") ?? get("attention.value_length"),
  };
}

/** Lists the layers with a window in families whose files do not. */
function windowFields({ ggufWindows: interval }: Family, get: (key: string) => unknown): object {
  const numLayers = get("block_count");
  if (interval === undefined || typeof numLayers !== "number" || !(numLayers <= MOST.layers)) return {};
  const typeOf = (layer: number): string => ((layer + 1) % interval === 0 ? "full_attention" : "sliding_attention");
  return { layer_types: Array.from({ length: numLayers }, (_, layer) => typeOf(layer)) };
}

/** Reads what describes layers with a recurrence, which have no heads of keys where files list these by layer. */
function recurrenceFields(
  store: GgufTensorStore,
  { recurrence, epsilonField, ffnSize }: Family,
  get: (key: string) => unknown,
): object {
  if (!recurrence) return {};
  const list = listOf(get("attention.head_count_kv"));
  const extra = get("nextn_predict_layers");
  return {
    ...Object.fromEntries(Object.entries(recurrence.ggufKeys).map(([field, key]) => [field, get(key)])),
    layer_types: list?.map((count) => (count === 0 ? recurrence.layerType : "full_attention")),
    // Layers that predict further tokens are the last ones.
    num_hidden_layers: numberOf(get("block_count")) - (typeof extra === "number" ? extra : 0),
    mamba_conv_bias: store.names.some((name) => name.endsWith("mamba.conv1d.bias")),
    ...(epsilonField && { [epsilonField]: get(GGUF_KEYS.rms_norm_eps) }),
    ...(ffnSize && { block_auto_adjust_ff_dim: false }),
  };
}

/**
 * Reads factors as llama.cpp's models/granite.cpp does: 0 means the same as an absent key. Without a factor, attention
 * scores are divided by √headSize, while the default of config.json is 1.
 */
function multiplierFields(
  multipliers: Multipliers | undefined,
  get: (key: string) => unknown,
  headSize: number,
): object {
  if (!multipliers) return {};
  const factor = (role: keyof Multipliers): unknown => get(GGUF_MULTIPLIER_KEYS[role]) || undefined;
  return {
    [multipliers.embedding]: factor("embedding"),
    [multipliers.residual]: factor("residual"),
    [multipliers.attention]: factor("attention") ?? 1 / Math.sqrt(headSize),
    [multipliers.logits]: factor("logits"),
  };
}

/** Metadata keys of families whose layers alternate. */
export const GGUF_ALTERNATION_KEYS: Readonly<Record<keyof Alternation, string>> = {
  interval: "attention.sliding_window_pattern",
  theta: "rope.freq_base_swa",
};

/** Reads what llama.cpp's models/gemma2.cpp and gemma3.cpp read. A file without a window has no layers with one. */
function alternationFields(
  { alternation, attentionScalar, ggufLargest }: Family,
  get: (key: string) => unknown,
  headSize: number,
): object {
  if (!alternation) return {};
  const pattern = get(GGUF_ALTERNATION_KEYS.interval);
  const isList = Array.isArray(pattern);
  const rowsPerHead = Math.floor(numberOf(get("embedding_length")) / numberOf(get("attention.head_count")));
  return {
    [alternation.interval]: get("attention.sliding_window") ? (isList ? undefined : pattern) : 1,
    layer_types: isList ? pattern.map((isSliding) => (isSliding ? "sliding_attention" : "full_attention")) : undefined,
    ...(alternation.theta && { [alternation.theta]: get(GGUF_ALTERNATION_KEYS.theta) }),
    ...(typeof attentionScalar === "string" && {
      [attentionScalar]: get("block_count") === ggufLargest ? rowsPerHead : headSize,
    }),
  };
}

/** Reads the config of an encoder. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for results that are not supported */
function ggufEncoder(store: GgufTensorStore, modelType: string, get: (key: string) => unknown): ModelConfig {
  const numRows = (name: string): number =>
    store.has(`${name}.weight`) ? (store.info(`${name}.weight`).shape[0] ?? 0) : 0;
  const fields = ggufEncoderFields(modelType, get, numRows);
  const ranks = get("pooling_type") === RANK;
  const pooling = ranks ? ggufClassifier(store, modelType) : encoderPooling(store, get);
  return { ...parseConfig(store.path, fields), pooling };
}

/** Reads what an encoder gives. @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for an encoder that ranks */
function encoderPooling(store: GgufTensorStore, get: (key: string) => unknown): PoolingConfig {
  const type = get("pooling_type") ?? MEAN;
  const mode = type === NONE ? "mean" : ENCODER_MODES.get(type);
  if (mode === undefined) {
    throw unsupported(store.path, `pools by type ${describeValue(type)}, which is not supported for encoders`);
  }
  const dense = ["dense_2", "dense_3"].flatMap((name): readonly DenseConfig[] => {
    if (!store.has(`${name}.weight`)) return [];
    const [outSize = 0, inSize = 0] = store.info(`${name}.weight`).shape;
    return [{ name, inSize, outSize, hasBias: false, activation: undefined }];
  });
  return { kind: "embedding", mode, isNormalized: true, prompts: {}, dense };
}

/** Reads the classifier of an encoder that ranks. It reads the state that llama.cpp's `build_pooling` takes. */
function ggufClassifier(store: GgufTensorStore, modelType: string): PoolingConfig {
  const { classifier: [first, last] = [] } = encoderFamily(modelType);
  if (!first || !last) throw unsupported(store.path, `ranks, which is not supported for the family ${modelType}`);
  if (!store.has(`${first.name}.weight`))
    throw unsupported(store.path, "ranks without cls.weight: llama.cpp's converter leaves out the pooler of BERT");
  if (!store.has(`${last.name}.weight`)) throw invalid(store.path, `ranks documents, but has no tensor ${CLASSIFIER}`);
  const [numRows] = store.info(`${last.name}.weight`).shape;
  if (numRows !== 1) throw unsupported(store.path, `classifies into ${numRows} labels; encoders with one are served`);
  const mode = modelType === "modernbert" ? "mean" : "first";
  return { kind: "labels", mode, labels: ["LABEL_0"], activation: "sigmoid" };
}

/**
 * Reads LongRoPE's parameters. As in llama.cpp, a file has them if it has the tensors, whatever it says of scaling, and
 * cosines have no factor unless it names one.
 */
async function longRope(store: GgufTensorStore, get: (key: string) => unknown): Promise<object | undefined> {
  if (!store.has(LONG_FACTORS) || !store.has(SHORT_FACTORS)) return undefined;
  return {
    rope_type: "longrope",
    long_factor: await readFactors(store, LONG_FACTORS),
    short_factor: await readFactors(store, SHORT_FACTORS),
    attention_factor: get("rope.scaling.attn_factor") ?? 1,
  };
}

/** Reads one factor per pair of dimensions. @throws {ReadMeError} `ERR_MODEL_INVALID` for more than any head has */
async function readFactors(store: GgufTensorStore, name: string): Promise<readonly number[]> {
  const numValues = countValues(store.info(name).shape) ?? Infinity;
  if (numValues <= MOST.headSize / 2) return Array.from(await store.readFloats(name));
  throw invalid(store.path, `tensor ${name} has ${numValues} factors, more than a head has pairs`);
}

function ropeScaling(get: (key: string) => unknown): object {
  const type = get("rope.scaling.type");
  // `rope.scale_linear` is the older spelling.
  const factor = get("rope.scaling.factor") ?? get("rope.scale_linear");
  if (type === undefined || type === "none") return factor === undefined ? {} : { rope_type: "linear", factor };
  if (type !== "yarn") return { rope_type: type, factor };
  const ownFactor = get("rope.scaling.attn_factor");
  return {
    rope_type: type,
    factor,
    original_max_position_embeddings: get("rope.scaling.original_context_length"),
    beta_fast: get("rope.scaling.yarn_beta_fast"),
    beta_slow: get("rope.scaling.yarn_beta_slow"),
    // With the multiplier, llama.cpp divides the factor of cosines out again (models/mistral3.cpp).
    attention_factor: get("rope.scaling.yarn_log_multiplier")
      ? 1
      : ownFactor && numberOf(ownFactor) * (1 + 0.1 * Math.log(numberOf(factor))),
    llama_4_scaling_beta: get("attention.temperature_scale"),
    // The key is a tenth of the field's value.
    mscale_all_dim: 10 * numberOf(get("rope.scaling.yarn_log_multiplier") ?? 0),
  };
}

// Reads the metadata of a GGUF file that describes a mixture of experts, under the field names of config.json.

/** Metadata keys of mixtures, behind the architecture's name, by config.json's field. */
export const GGUF_MIXTURE_KEYS = {
  num_local_experts: "expert_count",
  num_experts_per_tok: "expert_used_count",
  moe_intermediate_size: "expert_feed_forward_length",
} as const;

/** Key of the rows that all tokens use besides, which some families have. */
const SHARED_KEY = "expert_shared_feed_forward_length";

/** Keys of mixtures that some families have: the function of logits, a factor of weights, first layers with one FFN. */
const [GATING_KEY, SCALE_KEY, DENSE_KEY, COUNT_KEY] = [
  "expert_gating_func",
  "expert_weights_scale",
  "leading_dense_block_count",
  "expert_shared_count",
] as const;
/** Number of sigmoids in `llama_expert_gating_func_type`. */
const SIGMOIDS = 2;

/** Keys of computations that are not supported, with the values that leave them out besides an absent key and 0. */
const UNSUPPORTED_KEYS: Readonly<Record<string, readonly number[]>> = {
  // Number 1 is the softmax of `llama_expert_gating_func_type` in llama.cpp's src/llama-hparams.h.
  [GATING_KEY]: [1],
  [SCALE_KEY]: [1],
  expert_group_count: [1],
  [COUNT_KEY]: [],
  [SHARED_KEY]: [],
  [DENSE_KEY]: [],
};

/** Reads a number; NaN for anything else, such as a list, which `Number` would write out. */
function numberOf(value: unknown): number {
  return typeof value === "number" ? value : NaN;
}

/**
 * Reads a mixture's fields.
 *
 * @param get - reads the value of a key behind the architecture's name
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming a key of a computation that is not supported
 */
function ggufMixtureFields(
  { ggufNormalizesWeights, hasSigmoids, scalesWeights, denseLayers, denseType, ...named }: MixtureFields,
  path: string,
  get: (key: string) => unknown,
): object {
  const { sharedSize, sharedExperts, countField, chosenField, switchField } = named;
  for (const [key, harmless] of Object.entries(UNSUPPORTED_KEYS)) {
    const value = get(key);
    const isRead =
      (key === SHARED_KEY && (sharedSize ?? sharedExperts) !== undefined) ||
      (key === DENSE_KEY && denseLayers !== undefined) ||
      (key === COUNT_KEY && sharedExperts !== undefined) ||
      (key === SCALE_KEY && scalesWeights) ||
      (key === GATING_KEY && hasSigmoids && value === SIGMOIDS);
    if (isRead || value === undefined || value === 0 || harmless.includes(numberOf(value))) continue;
    throw unsupported(path, `\`${key}\` ${describeValue(value)} is not supported`);
  }
  const fields = Object.fromEntries(Object.entries(GGUF_MIXTURE_KEYS).map(([field, key]) => [field, get(key)]));
  // The width of an FFN has a key that all models have.
  const isPlain = sharedSize === "intermediate_size";
  return {
    ...fields,
    // Without experts the part that all tokens use is the whole FFN.
    ...(switchField && { [switchField]: numberOf(fields["num_local_experts"]) > 0 }),
    ...(chosenField && { [chosenField]: fields["num_experts_per_tok"] }),
    ...(sharedSize &&
      !isPlain && {
        [sharedSize]:
          get(SHARED_KEY) ?? (denseType && !fields["num_local_experts"] ? get("feed_forward_length") : undefined),
      }),
    ...(denseLayers && { [denseLayers]: get(DENSE_KEY) }),
    ...(countField && { [countField]: get(GGUF_MIXTURE_KEYS.num_local_experts) }),
    ...(sharedExperts && { [sharedExperts]: get(COUNT_KEY) }),
    ...(scalesWeights && { routed_scaling_factor: get(SCALE_KEY) || undefined }),
    // Without the key, llama.cpp's src/models/qwen3moe.cpp divides the dense width among the experts of a token.
    moe_intermediate_size:
      fields["moe_intermediate_size"] || numberOf(get("feed_forward_length")) / numberOf(fields["num_experts_per_tok"]),
    norm_topk_prob: get("expert_weights_norm") ?? ggufNormalizesWeights,
  };
}

// Pooling as a GGUF file states it, in the metadata that llama.cpp's converter writes.

/** Values of `pooling_type`: `enum llama_pooling_type` in llama.cpp's include/llama.h. */
const [NONE, MEAN, CLS, LAST, RANK] = [0, 1, 2, 3, 4];
const MODES = new Map<unknown, string>([
  [MEAN, "the mean of all tokens"],
  [CLS, "the first token"],
]);
const ENCODER_MODES: ReadonlyMap<unknown, PoolingMode> = new Map([
  [MEAN, "mean"],
  [CLS, "first"],
  [LAST, "last"],
]);
/** Tensor with one row for each label of a classifier. */
const CLASSIFIER = "cls.output.weight";

/**
 * Reads what a file's model gives for a whole text.
 *
 * @param get - reads metadata behind the architecture's name
 * @returns `undefined` for a model that generates
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming the mode or the labels; `ERR_MODEL_INVALID`
 */
function ggufPooling(store: GgufTensorStore, get: (key: string) => unknown): PoolingConfig | undefined {
  const type = get("pooling_type");
  if (type === undefined || type === NONE) return undefined;
  // llama.cpp's server normalises embeddings unless a request says otherwise.
  if (type === LAST) return { kind: "embedding", mode: "last", isNormalized: true, prompts: {} };
  if (type !== RANK) {
    const mode = MODES.get(type) ?? `type ${describeValue(type)}`;
    throw unsupported(store.path, `pools by ${mode}, which is not supported; served are the last token and ranking`);
  }
  if (!store.has(CLASSIFIER)) {
    throw invalid(store.path, `ranks documents, but has no tensor ${CLASSIFIER}`);
  }
  const [numRows = 0] = store.info(CLASSIFIER).shape;
  const labels = get("classifier.output_labels");
  if (numRows === 1) return { kind: "score", head: { tensor: CLASSIFIER, numRows, rows: [0] } };
  const rows = ["yes", "no"].map((label) => (Array.isArray(labels) ? labels.indexOf(label) : -1));
  if (numRows === 2 && rows.every((row) => row >= 0)) {
    return { kind: "score", head: { tensor: CLASSIFIER, numRows, rows } };
  }
  const named = Array.isArray(labels)
    ? quoted(
        labels
          .slice(0, 10)
          .filter((label) => typeof label === "string")
          .join(", "),
      )
    : `${numRows} labels`;
  throw unsupported(store.path, `classifies into ${named}, which is not supported; served are yes and no`);
}
