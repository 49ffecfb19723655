// Reads config.json of a Hugging Face checkpoint into a ModelConfig, or refuses it by the name of what is not
// supported.

import { describeValue, isRecord } from "@readme-moe/core";
import { unsupported } from "../files/errors.ts";
import type { JsonObject } from "../files/read-file.ts";
import { ENCODER_TYPES, parseEncoder } from "./encoder-config.ts";
import { familyOf, MODEL_TYPES, unsupportedKind } from "./families.ts";
import type { Family } from "./family.ts";
import { Fields, MOST } from "./fields.ts";
import { latentScale, parseLatent } from "./latent.ts";
import { type Mixture, parseMixture } from "./mixture.ts";
import { RECURRENT_TYPES } from "./recurrence.ts";
import {
  type Activation,
  type LayerConfig,
  type ModelConfig,
  type QueryGrowth,
  parseLongRope,
  type RopeConfig,
  type SoftCaps,
  yarnGrowth,
} from "./model-config.ts";

const ACTIVATIONS: ReadonlyMap<string, Activation> = new Map([
  ["silu", "silu"],
  ["swish", "silu"],
  ["gelu_pytorch_tanh", "gelu-tanh"],
  ["gelu_new", "gelu-tanh"],
]);

/**
 * Reads a config.
 *
 * @param path - of config.json, for messages
 * @param generation - generation_config.json if there is one; its end tokens take precedence
 * @param rotated - number of a head's dimensions that RoPE rotates, if the file says so. @default the config's share
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` or `ERR_MODEL_INVALID`, naming the file and the field
 */
export function parseConfig(path: string, json: unknown, generation?: Fields, rotated?: number): ModelConfig {
  const named = new Fields(path, textConfig(path, json));
  const modelType = named.text("model_type");
  if (ENCODER_TYPES.includes(modelType)) return parseEncoder(named);
  if (!MODEL_TYPES.includes(modelType)) {
    const known = [...MODEL_TYPES, ...ENCODER_TYPES].join(", ");
    named.unsupported("model_type", `supported are ${known}`, unsupportedKind(modelType));
  }
  const family = familyOf(modelType);
  const fields = named.withDefaults(family.defaults ?? {});
  refuseUnsupported(fields, family);

  const hiddenSize = fields.size("hidden_size", MOST.width);
  const numHeads = fields.size("num_attention_heads", MOST.heads);
  const latent = family.isLatent ? parseLatent(fields) : undefined;
  const numKvHeads = latent ? 1 : fields.size("num_key_value_heads", MOST.heads, numHeads);
  const numLayers = fields.size("num_hidden_layers", MOST.layers);
  const mixture = parseMixture(fields, family.mixture, numLayers);
  const rotatedOfKey = latent && fields.size("qk_rope_head_dim", MOST.headSize);
  const headSize = latent
    ? latent.latentSize + (rotatedOfKey ?? 0)
    : fields.size("head_dim", MOST.headSize, Math.floor(hiddenSize / numHeads));
  if (numHeads % numKvHeads !== 0) {
    throw fields.invalid(`${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`);
  }
  if (headSize % 2 !== 0) throw fields.invalid(`the head size ${headSize} is odd, but RoPE rotates pairs`);
  const rotatedSize = rotatedOfKey ?? rotated ?? parseRotatedSize(fields, family, headSize);
  if (!isPairCount(rotatedSize, headSize)) {
    throw fields.invalid(`RoPE over ${rotatedSize} of ${headSize} dimensions does not rotate pairs`);
  }
  const keyValues = numLayers * numKvHeads * headSize;
  if (keyValues > MOST.keyValues) {
    const sizes = `${numLayers} layers of ${numKvHeads} key/value heads of size ${headSize}`;
    throw unsupported(path, `has ${sizes}, ${keyValues} numbers; supported are up to ${MOST.keyValues}`);
  }
  const contextTokens = fields.size("max_position_embeddings", MOST.tokens, 2048);

  const eosTokenIds = generation?.tokenIds("eos_token_id") ?? [];
  const layered = parseLayers(fields, family, { numLayers, rotatedSize, contextTokens }, mixture?.isMixture);
  if (layered.layers.every(({ isRecurrent }) => isRecurrent)) {
    fields.unsupported("layer_types", "supported are models with attention in a layer");
  }
  const hasAttentionBias = fields.boolean("attention_bias", false);
  return {
    modelType: mixture ? modelType : (family.mixture?.denseType ?? modelType),
    vocabSize: fields.size("vocab_size", MOST.vocab),
    hiddenSize,
    intermediateSize: family.ffnSize?.(fields) ?? parseFfnSize(fields, family, mixture),
    mixture: mixture?.config,
    recurrence: layered.layers.some(({ isRecurrent }) => isRecurrent)
      ? family.recurrence?.read(fields, numHeads)
      : undefined,
    latent,
    gatesAttention: family.gatesAttention,
    hasSinks: family.hasSinks,
    normsValues: family.normsValues,
    layerInputSize: family.layerInputs === undefined ? undefined : parseLayerInputs(fields, family.layerInputs),
    numLayers,
    numHeads,
    numKvHeads,
    headSize,
    rotatedSize,
    norms: family.norms,
    normOffset: family.normOffset ?? 0,
    rmsNormEpsilon: fields.positive(family.epsilonField ?? "rms_norm_eps", 1e-6),
    qkNorm: family.qkNorm,
    activation: parseActivation(fields, family),
    contextTokens,
    queryGrowth: parseQueryGrowth(fields, { contextTokens, rotatedSize, headSize }),
    ...layered,
    ...parseScales(fields, family, { headSize, hiddenSize }),
    ...(latent && {
      attentionScale: latentScale(latent.plainSize + rotatedSize, layered.ropes[0], ropeParameters(fields)),
    }),
    caps: parseCaps(fields, family),
    hasQkvBias: family.hasQkvBias ?? fields.boolean(family.qkvBiasField ?? "attention_bias", false),
    hasOutputBias: family.hasOutputBias ?? hasAttentionBias,
    hasMlpBias: fields.boolean("mlp_bias", false),
    hasTiedEmbeddings: fields.boolean("tie_word_embeddings", false),
    bosTokenId: fields.tokenIds("bos_token_id")[0],
    eosTokenIds: eosTokenIds.length > 0 ? eosTokenIds : fields.tokenIds("eos_token_id"),
    encoder: seesBothDirections(fields, family)
      ? { isPostNorm: false, firstPosition: undefined, numSegments: 0, numDistanceBuckets: 0 }
      : undefined,
  };
}

/** Reads the number of inputs of each layer, which the kernel has in whole vectors. */
function parseLayerInputs(fields: Fields, name: string): number {
  const size = fields.count(name) ?? 0;
  return size % 16 === 0 ? size : fields.unsupported(name, "supported are multiples of 16");
}

/** Reads the width of dense FFNs: of a mixture without experts, that of the part all tokens use. */
function parseFfnSize(fields: Fields, family: Family, mixture: Mixture | undefined): number {
  if (!mixture) return fields.size(family.mixture?.sharedSize ?? "intermediate_size", MOST.width);
  const isNeeded = mixture.isMixture.includes(false);
  return fields.size("intermediate_size", MOST.width, isNeeded ? undefined : mixture.config.expertSize);
}

type QuerySizes = Pick<ModelConfig, "contextTokens" | "rotatedSize" | "headSize">;

function parseQueryGrowth(
  fields: Fields,
  { contextTokens, rotatedSize, headSize }: QuerySizes,
): QueryGrowth | undefined {
  const parameters = ropeParameters(fields);
  if (!parameters?.raw("llama_4_scaling_beta")) return undefined;
  const period = parameters.size("original_max_position_embeddings", MOST.tokens, contextTokens);
  if (period >= contextTokens) return undefined;
  if (rotatedSize < headSize) fields.unsupported("rope_parameters", "supported is RoPE over whole heads");
  return { rate: parameters.positive("llama_4_scaling_beta"), period };
}

function seesBothDirections(fields: Fields, { bothDirections }: Family): boolean {
  return bothDirections !== undefined && fields.boolean(bothDirections.field, false);
}

function refuseUnsupported(fields: Fields, family: Family): void {
  const quantization = fields.object("quantization_config");
  const isKnown = family.hasMxfp4 && quantization?.raw("quant_method") === "mxfp4";
  if (quantization && !isKnown) refuseQuantization(quantization);
  for (const name of [...(family.unsupported ?? []), ...(family.hasCaps ? [] : CAPS)]) {
    if (fields.raw(name)) fields.unsupported(name, "supported is a config without it");
  }
  for (const [name, value] of Object.entries(family.required ?? {})) {
    if (fields.raw(name) !== value) fields.unsupported(name, `supported is ${describeValue(value)}`);
  }
}

/** Refuses quantised checkpoints whose weights `mxfp4Tensors` does not read, or whose inputs are rotated. */
function refuseQuantization(fields: Fields): void {
  const take = "take one in mxfp4-pack-quantized of compressed-tensors, the unquantised checkpoint, or a GGUF file";
  if (fields.raw("quant_method") !== "compressed-tensors") fields.unsupported("quant_method", take);
  if (fields.raw("format") !== "mxfp4-pack-quantized") fields.unsupported("format", take);
  if (fields.object("transform_config")?.names.length) fields.unsupported("transform_config", take);
}

/** Multimodal configs whose `text_config` is supported, by `model_type`, and the family of the part. */
const TEXT_PARTS: ReadonlyMap<unknown, string> = new Map([
  ["gemma3", "gemma3_text"],
  ["gemma4", "gemma4_text"],
  ["mistral3", "ministral3"],
  ["qwen3_5", "qwen3_5_text"],
  ["qwen3_5_moe", "qwen3_5_moe_text"],
]);

/**
 * Finds the part of a multimodal config that describes the model of text, with the token ids of the whole. Other
 * configs stay as they are.
 */
export function textConfig(path: string, json: unknown): JsonObject {
  const whole = new Fields(path, json);
  const family = TEXT_PARTS.get(whole.raw("model_type"));
  if (family === undefined) return json as JsonObject;
  const part = whole.raw("text_config");
  if (!isRecord(part)) throw whole.invalid(`expected \`text_config\` to be an object, got ${describeValue(part)}`);
  const names = ["bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config"];
  const outer = names.filter((name) => whole.has(name)).map((name) => [name, whole.raw(name)] as const);
  return { ...part, model_type: part["model_type"] ?? family, ...Object.fromEntries(outer) };
}

function parseActivation(fields: Fields, { activationField = "hidden_act", activation }: Family): Activation {
  if (activation) return activation;
  const known = ACTIVATIONS.get(fields.text(activationField, "silu"));
  return known ?? fields.unsupported(activationField, "supported are silu, gelu_pytorch_tanh");
}

type Scales = Pick<ModelConfig, "embeddingScale" | "residualScale" | "attentionScale" | "logitScale">;

function parseScales(
  fields: Fields,
  { multipliers, scalesEmbeddings = false, attentionScalar }: Family,
  { headSize, hiddenSize }: Pick<ModelConfig, "headSize" | "hiddenSize">,
): Scales {
  const scalar = typeof attentionScalar === "string" ? fields.positive(attentionScalar) : (attentionScalar ?? headSize);
  const factor = (name: string | undefined): number => (name === undefined ? 1 : fields.positive(name, 1));
  return {
    // PyTorch has the root as a float32.
    embeddingScale: scalesEmbeddings ? Math.fround(Math.sqrt(hiddenSize)) : factor(multipliers?.embedding),
    residualScale: factor(multipliers?.residual),
    attentionScale: multipliers ? factor(multipliers.attention) : 1 / Math.sqrt(scalar),
    logitScale: 1 / factor(multipliers?.logits),
  };
}

/** Fields of bounds of scores and of logits. */
const CAPS = ["attn_logit_softcapping", "final_logit_softcapping"] as const;

function parseCaps(fields: Fields, { hasCaps = false }: Family): SoftCaps | undefined {
  const [scores, logits] = CAPS.map((name) =>
    fields.has(name) && !fields.isNull(name) ? fields.positive(name) : undefined,
  );
  return hasCaps && (scores || logits) ? { scores, logits } : undefined;
}

/** Finds the properties of layers, and the sets of angles that they use, in the order of their first use. */
function parseLayers(
  fields: Fields,
  family: Family,
  sizes: Pick<ModelConfig, "numLayers" | "rotatedSize" | "contextTokens">,
  isMixture: readonly boolean[] = [],
): Pick<ModelConfig, "layers" | "ropes"> {
  const { numLayers } = sizes;
  const hasRope = parseRopeLayers(fields, family, numLayers);
  const { full, sliding } = parseRopes(fields, family, sizes);
  const isSame = JSON.stringify(full) === JSON.stringify(sliding);
  const ropes: RopeConfig[] = [];
  const setOf = (rope: RopeConfig): number => {
    const known = ropes.indexOf(rope);
    return known >= 0 ? known : ropes.push(rope) - 1;
  };
  const layers = parseWindows(fields, family, numLayers).map((slidingWindow, layer): LayerConfig => {
    const rope = slidingWindow === undefined || isSame ? full : sliding;
    const own = { slidingWindow: undefined, angleSet: undefined, isMixture: isMixture[layer] ?? false };
    if (slidingWindow === "recurrence") return { ...own, isRecurrent: true };
    return { slidingWindow, angleSet: hasRope[layer] ? setOf(rope) : undefined, isMixture: isMixture[layer] ?? false };
  });
  const sizesOf = family.layerSizes?.(
    fields,
    layers.map(({ slidingWindow }) => slidingWindow),
  );
  const sized = layers.map((layer, index) => ({ ...layer, ...sizesOf?.[index] }));
  // The share of a head that rotates is that of layers without a window.
  const { headSize } = sized.find(({ slidingWindow }) => slidingWindow === undefined)?.heads ?? {};
  return {
    layers: sized,
    ropes: ropes.map((one) => (one.type === "proportional" && headSize ? { ...one, headSize } : one)),
  };
}

/**
 * `layer_types` names the layers with the window. Without it the interval of an alternation or Qwen's
 * `max_window_layers` does, else all layers have it.
 */
function parseWindows(
  fields: Fields,
  family: Family,
  numLayers: number,
): readonly (number | "recurrence" | undefined)[] {
  const { slidingWindow, alternation, recurrence } = family;
  const whole = slidingWindow?.(fields);
  // As in transformers, whose bound of a distance is exclusive.
  const window = whole && seesBothDirections(fields, family) ? Math.floor(whole / 2) + 1 : whole;
  const types = fields.list("layer_types") ?? recurrence?.layerTypes?.(fields, numLayers);
  if (types === undefined && alternation) {
    const interval = fields.size(alternation.interval, MOST.integer);
    return Array.from({ length: numLayers }, (_, layer) => ((layer + 1) % interval === 0 ? undefined : window));
  }
  if (types === undefined) {
    const first = fields.has("use_sliding_window") ? (fields.count("max_window_layers") ?? 28) : 0;
    return Array.from({ length: numLayers }, (_, layer) => (layer >= first ? window : undefined));
  }
  if (types.length !== numLayers) {
    throw fields.invalid(`\`layer_types\` has ${types.length} entries for ${numLayers} layers`);
  }
  return types.map((type) => {
    // Granite's older configs say "attention".
    if (type === "full_attention" || type === "attention") return undefined;
    if (recurrence && RECURRENT_TYPES.includes(type)) return "recurrence";
    if (type !== "sliding_attention")
      fields.unsupported("layer_types", "supported are full_attention, sliding_attention");
    return window ?? fields.size("sliding_window", MOST.integer);
  });
}

function parseRopeLayers(fields: Fields, { ropeLayers, ropeField }: Family, numLayers: number): readonly boolean[] {
  if (ropeField !== undefined && fields.raw(ropeField) !== "rope") {
    if (fields.raw(ropeField) !== "nope" && fields.has(ropeField))
      fields.unsupported(ropeField, "supported are rope, nope");
    return [];
  }
  if (ropeLayers === undefined) return Array.from({ length: numLayers }, () => true);
  const { list: name, interval: intervalName } = ropeLayers;
  const list = fields.list(name);
  const interval = fields.size(intervalName, MOST.integer);
  const numbers = list ?? Array.from({ length: numLayers }, (_, layer) => ((layer + 1) % interval === 0 ? 0 : 1));
  if (numbers.length !== numLayers) {
    throw fields.invalid(`\`${name}\` has ${numbers.length} entries for ${numLayers} layers`);
  }
  if (!numbers.every((number) => number === 0 || number === 1)) {
    throw fields.invalid(`expected \`${name}\` to be a list of 0 and 1, got ${describeValue(list)}`);
  }
  // The kernel refuses angles that no layer uses.
  if (!numbers.includes(1)) fields.unsupported(list ? name : intervalName, "supported are models with RoPE in a layer");
  return numbers.map((number) => number === 1);
}

// Reads the rotary angles of a config.

type Sizes = Pick<ModelConfig, "rotatedSize" | "contextTokens">;

/** Finds RoPE's parameters in the newer spelling, else in the older one. */
function ropeParameters(fields: Fields): Fields | undefined {
  return fields.object("rope_parameters") ?? fields.object("rope_scaling");
}

/** Reads the share of a head that RoPE rotates: with the RoPE parameters, or beside them. Rounds down, as PyTorch. */
function parseRotatedSize(fields: Fields, { hasPartialRotary = false }: Family, headSize: number): number {
  const parameters = ropeParameters(fields);
  const place = parameters?.has("partial_rotary_factor") ? parameters : fields;
  const share = place.positive("partial_rotary_factor", 1);
  if (share !== 1 && !hasPartialRotary) place.unsupported("partial_rotary_factor", "supported is 1");
  return Math.floor(headSize * share);
}

/** Whether so many of a head's dimensions are pairs that RoPE can rotate. */
function isPairCount(rotatedSize: number, headSize: number): boolean {
  return Number.isInteger(rotatedSize) && rotatedSize % 2 === 0 && rotatedSize >= 2 && rotatedSize <= headSize;
}

/**
 * Reads both spellings: `rope_parameters` (transformers 5), and `rope_theta` with `rope_scaling` (before). In a config
 * with both, `rope_parameters` takes precedence, as in transformers. Families whose layers alternate may have one
 * object in it for each type of layer; the older spelling scales the layers without a window alone.
 *
 * @returns the angles of layers without a window, and of those with one
 */
function parseRopes(
  fields: Fields,
  family: Family,
  sizes: Sizes,
): { readonly full: RopeConfig; readonly sliding: RopeConfig } {
  const ofWindow = family.alternation?.theta;
  const parameters = fields.object("rope_parameters");
  const [ofFull, ofSliding] = ["full_attention", "sliding_attention"].map((type) => parameters?.object(type));
  const isByType = ofFull !== undefined || ofSliding !== undefined;
  if (isByType && !ofWindow) {
    fields.unsupported("rope_parameters", "supported is RoPE that is the same in all layers");
  }
  const theta = (isByType ? fields : (parameters ?? fields)).positive(
    "rope_theta",
    fields.positive("rope_theta", 10000),
  );
  const originalTokens = fields.count("original_max_position_embeddings");
  const ropeOf = (scaling: Fields | undefined, plainTheta: number): RopeConfig =>
    parseRope(scaling, family, { ...sizes, plainTheta, originalTokens });
  const full = ropeOf(isByType ? ofFull : ropeParameters(fields), theta);
  if (!ofWindow) return { full, sliding: full };
  return {
    full,
    sliding: ropeOf(ofSliding, ofWindow === "rope_theta" ? theta : fields.positive(ofWindow)),
  };
}

function parseRope(
  scaling: Fields | undefined,
  { ropeTypeNames = {} }: Family,
  outer: Sizes & { readonly plainTheta: number; readonly originalTokens: number | undefined },
): RopeConfig {
  if (scaling === undefined) return { type: "default", theta: outer.plainTheta };
  const theta = scaling.positive("rope_theta", outer.plainTheta);
  const typeField = scaling.has("rope_type") ? "rope_type" : "type";
  const name = scaling.text(typeField, "default");
  const type = (Object.hasOwn(ropeTypeNames, name) && ropeTypeNames[name]) || name;
  switch (type) {
    case "default":
      return { type: "default", theta };
    case "linear":
      return { type: "linear", theta, factor: scaling.positive("factor") };
    case "llama3":
      return {
        type: "llama3",
        theta,
        factor: scaling.positive("factor"),
        lowFreqFactor: scaling.positive("low_freq_factor"),
        highFreqFactor: scaling.positive("high_freq_factor"),
        originalContextTokens: scaling.size("original_max_position_embeddings", MOST.tokens),
      };
    case "longrope":
      return parseLongRope(scaling, outer.originalTokens, { ...outer, theta });
    case "yarn":
      return parseYarn(scaling, outer.contextTokens, theta);
    case "proportional":
      if (scaling.positive("factor", 1) !== 1) scaling.unsupported("factor", "supported is 1");
      return { type, theta, share: scaling.positive("partial_rotary_factor", 1), headSize: outer.rotatedSize };
    default:
      return scaling.unsupported(typeField, "supported are default, linear, llama3, longrope, yarn, proportional");
  }
}

/** Reads the parameters of YaRN as transformers does (`_compute_yarn_parameters`). */
function parseYarn(scaling: Fields, contextTokens: number, theta: number): RopeConfig {
  const factor = scaling.positive("factor");
  const scales = ["mscale", "mscale_all_dim"].map((name) => scaling.raw(name) && scaling.positive(name));
  const [own, all] = scales.map((scale) => (typeof scale === "number" ? yarnGrowth(factor, scale) : undefined));
  if (theta === 1) throw scaling.invalid("expected `rope_theta` to be no 1, whose logarithm is a divisor");
  return {
    type: "yarn",
    theta,
    factor,
    originalContextTokens: scaling.size("original_max_position_embeddings", MOST.tokens, contextTokens),
    fastTurns: scaling.positive("beta_fast", 32),
    slowTurns: scaling.positive("beta_slow", 1),
    isRounded: scaling.boolean("truncate", true),
    attentionFactor: scaling.positive("attention_factor", own && all ? own / all : yarnGrowth(factor, 1)),
  };
}
