// config.json and generation_config.json of an exported folder.

import { familyOf } from "../config/families.ts";
import type { Family } from "../config/family.ts";
import type { Activation, ModelConfig } from "../config/model-config.ts";
import { attentionFactorOf } from "../config/long-rope.ts";
import type { RopeConfig } from "../config/rope.ts";
import type { JsonObject } from "../files/text-file.ts";

/** Graphs that config.json describes. */
export interface ExportedFiles {
  readonly dtypes: readonly string[];
  /** Graphs with their weights in a separate file. */
  readonly withDataFile: readonly string[];
}

/**
 * Makes config.json: the checkpoint's own, if it has one, with every field that readers of the graphs need, defaults
 * included. RoPE has both spellings: readers of the older fields fall back to a theta of 10,000 without them.
 */
export function exportedConfig(
  config: ModelConfig,
  original: JsonObject | undefined,
  { dtypes, withDataFile }: ExportedFiles,
): JsonObject {
  const family = familyOf(config.modelType);
  // Readers load float32 when no dtype is named.
  const ownDtype = dtypes.includes("fp32") ? {} : { dtype: dtypes[0] };
  const dataFiles = Object.fromEntries(withDataFile.map((name) => [name, 1]));
  const forReader = { ...ownDtype, ...(withDataFile.length > 0 ? { use_external_data_format: dataFiles } : {}) };
  return {
    ...original,
    // Blocks of MXFP4 are written as other types.
    quantization_config: undefined,
    architectures: [family.className],
    model_type: config.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    num_key_value_heads: config.numKvHeads,
    head_dim: config.headSize,
    [family.activationField ?? "hidden_act"]: ACTIVATION_NAMES[config.activation],
    ...multiplierFields(config),
    ...mixtureFields(config),
    ...ropeLayerFields(config),
    rms_norm_eps: config.rmsNormEpsilon,
    max_position_embeddings: config.contextTokens,
    // Readers of families with `hasQkvBias` or `hasOutputBias` of their own ignore it; in the others both are equal.
    attention_bias: config.hasOutputBias,
    mlp_bias: config.hasMlpBias,
    tie_word_embeddings: config.hasTiedEmbeddings,
    ...ropeConfigFields(config, family),
    use_cache: true,
    ...(original ? {} : tokenIds(config)),
    ...(Object.keys(forReader).length > 0 ? { "transformers.js_config": forReader } : {}),
  };
}

const ACTIVATION_NAMES: Readonly<Record<Activation, string>> = { silu: "silu", "gelu-tanh": "gelu_pytorch_tanh" };

/** Makes the fields of RoPE in both spellings; those of families whose layers alternate name these layers, too. */
function ropeConfigFields(config: ModelConfig, { alternation, attentionScalar }: Family): JsonObject {
  const { layers, ropes, contextTokens } = config;
  const ropeOf = (hasWindow: boolean): RopeConfig | undefined => {
    const layer = layers.find(({ slidingWindow, angleSet }) => {
      return angleSet !== undefined && (!alternation || (slidingWindow !== undefined) === hasWindow);
    });
    return ropes[layer?.angleSet ?? -1];
  };
  const [full, sliding] = [ropeOf(false), ropeOf(true)];
  const fieldsOf = (rope: RopeConfig): JsonObject => ({
    ...ropeFields(rope, contextTokens),
    ...partialRotaryFields(config),
  });
  const parameters = (rope: RopeConfig): JsonObject => ({ rope_theta: rope.theta, ...fieldsOf(rope) });
  const scaling = full && fieldsOf(full);
  const older = {
    // Readers of families with the field beside RoPE's parameters let it take precedence.
    ...(full?.type === "longrope" ? { original_max_position_embeddings: full.originalContextTokens } : {}),
    ...partialRotaryFields(config),
    ...(full ? { rope_theta: full.theta } : {}),
    rope_scaling: scaling && scaling["rope_type"] !== "default" ? scaling : null,
  };
  if (!alternation) return { ...older, rope_parameters: full ? parameters(full) : null };
  const window = layers.find(({ slidingWindow }) => slidingWindow !== undefined)?.slidingWindow;
  return {
    ...older,
    rope_parameters: {
      ...(full ? { full_attention: parameters(full) } : {}),
      ...(sliding ? { sliding_attention: parameters(sliding) } : {}),
    },
    ...(sliding ? { [alternation.theta]: sliding.theta } : {}),
    ...(window === undefined ? {} : { sliding_window: window }),
    layer_types: layers.map(({ slidingWindow }) => (slidingWindow ? "sliding_attention" : "full_attention")),
    ...(attentionScalar === undefined ? {} : { [attentionScalar]: config.attentionScale ** -2 }),
  };
}

/** Makes generation_config.json. @param original - the checkpoint's own, which is not changed */
export function exportedGenerationConfig(config: ModelConfig, original: JsonObject | undefined): JsonObject {
  return original ?? tokenIds(config);
}

function multiplierFields(config: ModelConfig): JsonObject {
  const { multipliers } = familyOf(config.modelType);
  if (!multipliers) return {};
  return {
    [multipliers.embedding]: config.embeddingScale,
    [multipliers.residual]: config.residualScale,
    [multipliers.attention]: config.attentionScale,
    [multipliers.logits]: 1 / config.logitScale,
  };
}

function mixtureFields({ mixture, layers }: ModelConfig): JsonObject {
  if (!mixture) return {};
  return {
    // Both spellings, of which older and newer readers know one each.
    num_local_experts: mixture.numExperts,
    num_experts: mixture.numExperts,
    num_experts_per_tok: mixture.expertsPerToken,
    moe_intermediate_size: mixture.expertSize,
    norm_topk_prob: mixture.normalizesWeights,
    decoder_sparse_step: 1,
    mlp_only_layers: layers.flatMap(({ isMixture }, layer) => (isMixture ? [] : [layer])),
  };
}

function partialRotaryFields({ modelType, headSize, rotatedSize }: ModelConfig): JsonObject {
  const isNamed = familyOf(modelType).hasPartialRotary || rotatedSize < headSize;
  return isNamed ? { partial_rotary_factor: rotatedSize / headSize } : {};
}

function ropeLayerFields({ modelType, layers }: ModelConfig): JsonObject {
  const { ropeLayers } = familyOf(modelType);
  return ropeLayers ? { [ropeLayers.list]: layers.map(({ angleSet }) => Number(angleSet !== undefined)) } : {};
}

function tokenIds({ bosTokenId, eosTokenIds }: ModelConfig): JsonObject {
  const eosTokenId = eosTokenIds.length > 1 ? eosTokenIds : eosTokenIds[0];
  return { bos_token_id: bosTokenId, eos_token_id: eosTokenId, pad_token_id: eosTokenIds[0] };
}

/** Names the factor of cosines if readers would not compute the same from both contexts. */
function ownAttentionFactor(rope: RopeConfig & { readonly type: "longrope" }, contextTokens: number): JsonObject {
  const { attentionFactor, originalContextTokens } = rope;
  const usual = attentionFactorOf(contextTokens / originalContextTokens, originalContextTokens);
  return attentionFactor === usual ? {} : { attention_factor: attentionFactor };
}

function ropeFields(rope: RopeConfig, contextTokens: number): JsonObject {
  switch (rope.type) {
    case "default":
      return { rope_type: "default" };
    case "linear":
      return { rope_type: "linear", factor: rope.factor };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: rope.factor,
        low_freq_factor: rope.lowFreqFactor,
        high_freq_factor: rope.highFreqFactor,
        original_max_position_embeddings: rope.originalContextTokens,
      };
    case "longrope":
      return {
        rope_type: "longrope",
        long_factor: rope.longFactors,
        short_factor: rope.shortFactors,
        original_max_position_embeddings: rope.originalContextTokens,
        ...ownAttentionFactor(rope, contextTokens),
      };
    case "factors":
      // The only spelling with a factor for each frequency.
      return {
        rope_type: "longrope",
        long_factor: rope.factors,
        short_factor: rope.factors,
        original_max_position_embeddings: contextTokens,
        attention_factor: 1,
      };
    default:
      throw new TypeError(`Unknown RoPE type: ${String(rope satisfies never)}`);
  }
}
