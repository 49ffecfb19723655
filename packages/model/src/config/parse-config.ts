// Reads config.json of a Hugging Face checkpoint into a ModelConfig, or refuses it by the name of what is not
// supported.

import { describeValue } from "@readme-moe/core";
import { type Family, familyOf, MODEL_TYPES, unsupportedKind } from "./families.ts";
import { Fields } from "./fields.ts";
import type { Activation, LayerConfig, ModelConfig } from "./model-config.ts";
import { parseMixture } from "./parse-mixture.ts";
import type { RopeConfig } from "./rope.ts";

const ACTIVATIONS: ReadonlyMap<string, Activation> = new Map([
  ["silu", "silu"],
  ["swish", "silu"],
]);

/**
 * Reads a config.
 *
 * @param path - of config.json, for messages
 * @param generation - generation_config.json if there is one; its end tokens take precedence
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` or `ERR_MODEL_INVALID`, naming the file and the field
 */
export function parseConfig(path: string, json: unknown, generation?: Fields): ModelConfig {
  const named = new Fields(path, json);
  const modelType = named.text("model_type");
  if (!MODEL_TYPES.includes(modelType)) {
    named.unsupported("model_type", `supported are ${MODEL_TYPES.join(", ")}`, unsupportedKind(modelType));
  }
  const family = familyOf(modelType);
  const fields = named.withDefaults(family.defaults ?? {});
  refuseUnsupported(fields, family);

  const hiddenSize = fields.size("hidden_size");
  const numHeads = fields.size("num_attention_heads");
  const numKvHeads = fields.size("num_key_value_heads", numHeads);
  const numLayers = fields.size("num_hidden_layers");
  const mixture = parseMixture(fields, family.mixture, numLayers);
  const headSize = fields.size("head_dim", Math.floor(hiddenSize / numHeads));
  if (numHeads % numKvHeads !== 0) {
    throw fields.invalid(`${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`);
  }
  if (headSize % 2 !== 0) throw fields.invalid(`the head size ${headSize} is odd, but RoPE rotates pairs`);

  const eosTokenIds = generation?.tokenIds("eos_token_id") ?? [];
  const hasAttentionBias = fields.boolean("attention_bias", false);
  return {
    modelType,
    vocabSize: fields.size("vocab_size"),
    hiddenSize,
    intermediateSize: fields.size("intermediate_size"),
    mixture: mixture?.config,
    numLayers,
    numHeads,
    numKvHeads,
    headSize,
    norms: family.norms,
    rmsNormEpsilon: fields.positive("rms_norm_eps", 1e-6),
    qkNorm: family.qkNorm,
    activation: parseActivation(fields),
    rope: parseRope(fields),
    contextTokens: fields.size("max_position_embeddings", 2048),
    layers: parseLayers(fields, family, numLayers, mixture?.isMixture),
    ...parseScales(fields, family, headSize),
    hasQkvBias: family.hasQkvBias ?? hasAttentionBias,
    hasOutputBias: family.hasOutputBias ?? hasAttentionBias,
    hasMlpBias: fields.boolean("mlp_bias", false),
    hasTiedEmbeddings: fields.boolean("tie_word_embeddings", false),
    bosTokenId: fields.tokenIds("bos_token_id")[0],
    eosTokenIds: eosTokenIds.length > 0 ? eosTokenIds : fields.tokenIds("eos_token_id"),
  };
}

function refuseUnsupported(fields: Fields, { unsupported = [] }: Family): void {
  if (fields.has("quantization_config")) {
    fields.unsupported("quantization_config", "use the unquantised checkpoint, or a GGUF file");
  }
  const partial = fields.positive("partial_rotary_factor", 1);
  if (partial !== 1) fields.unsupported("partial_rotary_factor", "supported is 1");
  for (const name of unsupported) {
    if (fields.raw(name)) fields.unsupported(name, "supported is a config without it");
  }
}

function parseActivation(fields: Fields): Activation {
  return ACTIVATIONS.get(fields.text("hidden_act", "silu")) ?? fields.unsupported("hidden_act", "supported is silu");
}

type Scales = Pick<ModelConfig, "embeddingScale" | "residualScale" | "attentionScale" | "logitScale">;

function parseScales(fields: Fields, { multipliers }: Family, headSize: number): Scales {
  const factor = (name: string | undefined): number => (name === undefined ? 1 : fields.positive(name, 1));
  return {
    embeddingScale: factor(multipliers?.embedding),
    residualScale: factor(multipliers?.residual),
    attentionScale: multipliers ? factor(multipliers.attention) : 1 / Math.sqrt(headSize),
    logitScale: 1 / factor(multipliers?.logits),
  };
}

function parseLayers(
  fields: Fields,
  family: Family,
  numLayers: number,
  isMixture: readonly boolean[] = [],
): readonly LayerConfig[] {
  const hasRope = parseRopeLayers(fields, family, numLayers);
  const windows = parseWindows(fields, family.slidingWindow?.(fields), numLayers);
  return windows.map((slidingWindow, layer) => ({
    slidingWindow,
    hasRope: hasRope[layer] ?? true,
    isMixture: isMixture[layer] ?? false,
  }));
}

/**
 * `layer_types` names the layers with the window. Without it Qwen's `max_window_layers` does, else all layers have it.
 */
function parseWindows(fields: Fields, window: number | undefined, numLayers: number): readonly (number | undefined)[] {
  const types = fields.list("layer_types");
  if (types === undefined) {
    const first = fields.has("use_sliding_window") ? (fields.count("max_window_layers") ?? 28) : 0;
    return Array.from({ length: numLayers }, (_, layer) => (layer >= first ? window : undefined));
  }
  if (types.length !== numLayers) {
    throw fields.invalid(`\`layer_types\` has ${types.length} entries for ${numLayers} layers`);
  }
  return types.map((type) => {
    if (type === "full_attention") return undefined;
    if (type !== "sliding_attention")
      fields.unsupported("layer_types", "supported are full_attention, sliding_attention");
    return window ?? fields.size("sliding_window");
  });
}

/**
 * Reads both spellings: `rope_parameters` (transformers 5), and `rope_theta` with `rope_scaling` (before). In a config
 * with both, `rope_parameters` takes precedence, as in transformers.
 */
function parseRope(fields: Fields): RopeConfig {
  const scaling = fields.object("rope_parameters") ?? fields.object("rope_scaling");
  const plainTheta = fields.positive("rope_theta", 10000);
  if (scaling === undefined) return { type: "default", theta: plainTheta };

  const theta = scaling.positive("rope_theta", plainTheta);
  const typeField = scaling.has("rope_type") ? "rope_type" : "type";
  switch (scaling.text(typeField, "default")) {
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
        originalContextTokens: scaling.size("original_max_position_embeddings"),
      };
    default:
      return scaling.unsupported(typeField, "supported are default, linear, llama3");
  }
}

function parseRopeLayers(fields: Fields, { ropeLayers }: Family, numLayers: number): readonly boolean[] {
  if (ropeLayers === undefined) return Array.from({ length: numLayers }, () => true);
  const { list: name, interval: intervalName } = ropeLayers;
  const list = fields.list(name);
  const interval = fields.size(intervalName);
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
