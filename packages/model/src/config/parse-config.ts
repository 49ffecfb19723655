// Reads config.json of a Hugging Face checkpoint into a ModelConfig, or refuses it by the name of what is not
// supported.

import { describeValue, ReadMeError } from "@readme-moe/core";
import { familyOf, MODEL_TYPES, unsupportedKind } from "./families.ts";
import type { Family } from "./family.ts";
import { Fields } from "./fields.ts";
import type { Activation, LayerConfig, ModelConfig } from "./model-config.ts";
import { MOST } from "./bounds.ts";
import { isJsonObject, type JsonObject } from "../files/text-file.ts";
import { parseMixture } from "./parse-mixture.ts";
import { isPairCount, parseRopes, parseRotatedSize } from "./parse-rope.ts";
import type { RopeConfig } from "./rope.ts";

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
  if (!MODEL_TYPES.includes(modelType)) {
    named.unsupported("model_type", `supported are ${MODEL_TYPES.join(", ")}`, unsupportedKind(modelType));
  }
  const family = familyOf(modelType);
  const fields = named.withDefaults(family.defaults ?? {});
  refuseUnsupported(fields, family);

  const hiddenSize = fields.size("hidden_size", MOST.width);
  const numHeads = fields.size("num_attention_heads", MOST.heads);
  const numKvHeads = fields.size("num_key_value_heads", MOST.heads, numHeads);
  const numLayers = fields.size("num_hidden_layers", MOST.layers);
  const mixture = parseMixture(fields, family.mixture, numLayers);
  const headSize = fields.size("head_dim", MOST.headSize, Math.floor(hiddenSize / numHeads));
  if (numHeads % numKvHeads !== 0) {
    throw fields.invalid(`${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`);
  }
  if (headSize % 2 !== 0) throw fields.invalid(`the head size ${headSize} is odd, but RoPE rotates pairs`);
  const rotatedSize = rotated ?? parseRotatedSize(fields, family, headSize);
  if (!isPairCount(rotatedSize, headSize)) {
    throw fields.invalid(`RoPE over ${rotatedSize} of ${headSize} dimensions does not rotate pairs`);
  }
  const keyValues = numLayers * numKvHeads * headSize;
  if (keyValues > MOST.keyValues) {
    const sizes = `${numLayers} layers of ${numKvHeads} key/value heads of size ${headSize}`;
    const message = `${path}: has ${sizes}, ${keyValues} numbers; supported are up to ${MOST.keyValues}`;
    throw new ReadMeError("ERR_MODEL_UNSUPPORTED", message);
  }
  const contextTokens = fields.size("max_position_embeddings", MOST.tokens, 2048);

  const eosTokenIds = generation?.tokenIds("eos_token_id") ?? [];
  const hasAttentionBias = fields.boolean("attention_bias", false);
  return {
    modelType,
    vocabSize: fields.size("vocab_size", MOST.vocab),
    hiddenSize,
    intermediateSize: fields.size("intermediate_size", MOST.width),
    mixture: mixture?.config,
    numLayers,
    numHeads,
    numKvHeads,
    headSize,
    rotatedSize,
    norms: family.norms,
    normOffset: family.normOffset ?? 0,
    rmsNormEpsilon: fields.positive("rms_norm_eps", 1e-6),
    qkNorm: family.qkNorm,
    activation: parseActivation(fields, family),
    contextTokens,
    ...parseLayers(fields, family, { numLayers, rotatedSize, contextTokens }, mixture?.isMixture),
    ...parseScales(fields, family, { headSize, hiddenSize }),
    hasQkvBias: family.hasQkvBias ?? hasAttentionBias,
    hasOutputBias: family.hasOutputBias ?? hasAttentionBias,
    hasMlpBias: fields.boolean("mlp_bias", false),
    hasTiedEmbeddings: fields.boolean("tie_word_embeddings", false),
    bosTokenId: fields.tokenIds("bos_token_id")[0],
    eosTokenIds: eosTokenIds.length > 0 ? eosTokenIds : fields.tokenIds("eos_token_id"),
  };
}

function refuseUnsupported(fields: Fields, { unsupported = [] }: Family): void {
  const quantization = fields.object("quantization_config");
  if (quantization) refuseQuantization(quantization);
  for (const name of unsupported) {
    if (fields.raw(name)) fields.unsupported(name, "supported is a config without it");
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
const TEXT_PARTS: ReadonlyMap<unknown, string> = new Map([["gemma3", "gemma3_text"]]);

/**
 * Finds the part of a multimodal config that describes the model of text, with the token ids of the whole. Other
 * configs stay as they are.
 */
export function textConfig(path: string, json: unknown): JsonObject {
  const whole = new Fields(path, json);
  const family = TEXT_PARTS.get(whole.raw("model_type"));
  if (family === undefined) return json as JsonObject;
  const part = whole.raw("text_config");
  if (!isJsonObject(part)) throw whole.invalid(`expected \`text_config\` to be an object, got ${describeValue(part)}`);
  const names = ["bos_token_id", "eos_token_id", "tie_word_embeddings", "quantization_config"];
  const outer = names.filter((name) => whole.has(name)).map((name) => [name, whole.raw(name)] as const);
  return { ...part, model_type: part["model_type"] ?? family, ...Object.fromEntries(outer) };
}

function parseActivation(fields: Fields, { activationField = "hidden_act" }: Family): Activation {
  const known = ACTIVATIONS.get(fields.text(activationField, "silu"));
  return known ?? fields.unsupported(activationField, "supported are silu, gelu_pytorch_tanh");
}

type Scales = Pick<ModelConfig, "embeddingScale" | "residualScale" | "attentionScale" | "logitScale">;

function parseScales(
  fields: Fields,
  { multipliers, scalesEmbeddings = false, attentionScalar }: Family,
  { headSize, hiddenSize }: Pick<ModelConfig, "headSize" | "hiddenSize">,
): Scales {
  const scalar = attentionScalar === undefined ? headSize : fields.positive(attentionScalar);
  const factor = (name: string | undefined): number => (name === undefined ? 1 : fields.positive(name, 1));
  return {
    // PyTorch has the root as a float32.
    embeddingScale: scalesEmbeddings ? Math.fround(Math.sqrt(hiddenSize)) : factor(multipliers?.embedding),
    residualScale: factor(multipliers?.residual),
    attentionScale: multipliers ? factor(multipliers.attention) : 1 / Math.sqrt(scalar),
    logitScale: 1 / factor(multipliers?.logits),
  };
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
    return { slidingWindow, angleSet: hasRope[layer] ? setOf(rope) : undefined, isMixture: isMixture[layer] ?? false };
  });
  return { layers, ropes };
}

/**
 * `layer_types` names the layers with the window. Without it the interval of an alternation or Qwen's
 * `max_window_layers` does, else all layers have it.
 */
function parseWindows(
  fields: Fields,
  { slidingWindow, alternation }: Family,
  numLayers: number,
): readonly (number | undefined)[] {
  const window = slidingWindow?.(fields);
  const types = fields.list("layer_types");
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
    if (type === "full_attention") return undefined;
    if (type !== "sliding_attention")
      fields.unsupported("layer_types", "supported are full_attention, sliding_attention");
    return window ?? fields.size("sliding_window", MOST.integer);
  });
}

function parseRopeLayers(fields: Fields, { ropeLayers }: Family, numLayers: number): readonly boolean[] {
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
