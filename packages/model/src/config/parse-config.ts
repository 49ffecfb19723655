// config.json of a Hugging Face checkpoint -> ModelConfig, or a refusal that names what is not supported.

import { Fields } from "./fields.ts";
import type { ModelConfig, ModelType } from "./model-config.ts";
import { parseRope } from "./parse-rope.ts";

/** What the families differ in when their config does not say. */
interface Family {
  readonly hasQkvBias: (fields: Fields) => boolean;
  readonly hasOutputBias: (fields: Fields) => boolean;
  readonly hasQkNorm: boolean;
  readonly headSize: (fields: Fields, fallback: number) => number;
  /** The window that the config names, before `layer_types` says which layers have it. */
  readonly window: (fields: Fields) => number | undefined;
}

const attentionBias = (fields: Fields): boolean => fields.boolean("attention_bias", false);
const namedHeadSize = (fields: Fields, fallback: number): number => fields.size("head_dim", fallback);
const optionalWindow = (fields: Fields): number | undefined =>
  fields.boolean("use_sliding_window", false) ? fields.size("sliding_window", 4096) : undefined;

const FAMILIES: Readonly<Record<ModelType, Family>> = {
  llama: {
    hasQkvBias: attentionBias,
    hasOutputBias: attentionBias,
    hasQkNorm: false,
    headSize: namedHeadSize,
    window: () => undefined,
  },
  mistral: {
    hasQkvBias: () => false,
    hasOutputBias: () => false,
    hasQkNorm: false,
    headSize: namedHeadSize,
    // An absent window is Mistral's default of 4,096, a `null` one says that there is none.
    window: (fields) => (fields.isNull("sliding_window") ? undefined : fields.size("sliding_window", 4096)),
  },
  qwen2: {
    hasQkvBias: () => true,
    hasOutputBias: () => false,
    hasQkNorm: false,
    headSize: namedHeadSize,
    window: optionalWindow,
  },
  qwen3: {
    hasQkvBias: attentionBias,
    hasOutputBias: attentionBias,
    hasQkNorm: true,
    headSize: (fields) => fields.size("head_dim", 128),
    window: optionalWindow,
  },
};

/**
 * @param path - of config.json, for messages
 * @param generation - generation_config.json where there is one; its end tokens win
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` or `ERR_MODEL_INVALID`, naming the file and the field
 */
export function parseConfig(path: string, json: unknown, generation?: Fields): ModelConfig {
  const fields = new Fields(path, json);
  const modelType = fields.text("model_type");
  if (!Object.hasOwn(FAMILIES, modelType)) {
    fields.unsupported("model_type", `supported are ${Object.keys(FAMILIES).join(", ")}`);
  }
  const family = FAMILIES[modelType as ModelType];
  refuseUnsupported(fields);

  const hiddenSize = fields.size("hidden_size");
  const numHeads = fields.size("num_attention_heads");
  const numKvHeads = fields.size("num_key_value_heads", numHeads);
  const numLayers = fields.size("num_hidden_layers");
  const headSize = family.headSize(fields, Math.floor(hiddenSize / numHeads));
  if (numHeads % numKvHeads !== 0) {
    throw fields.invalid(`${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`);
  }
  if (headSize % 2 !== 0) throw fields.invalid(`the head size ${headSize} is odd, RoPE turns pairs`);

  const eosTokenIds = generation?.tokenIds("eos_token_id") ?? [];
  return {
    modelType: modelType as ModelType,
    vocabSize: fields.size("vocab_size"),
    hiddenSize,
    intermediateSize: fields.size("intermediate_size"),
    numLayers,
    numHeads,
    numKvHeads,
    headSize,
    rmsNormEpsilon: fields.positive("rms_norm_eps", 1e-6),
    rope: parseRope(fields),
    contextTokens: fields.size("max_position_embeddings", 2048),
    slidingWindows: slidingWindows(fields, family.window(fields), numLayers),
    hasQkvBias: family.hasQkvBias(fields),
    hasOutputBias: family.hasOutputBias(fields),
    hasMlpBias: fields.boolean("mlp_bias", false),
    hasQkNorm: family.hasQkNorm,
    hasTiedEmbeddings: fields.boolean("tie_word_embeddings", false),
    bosTokenId: fields.tokenIds("bos_token_id")[0],
    eosTokenIds: eosTokenIds.length > 0 ? eosTokenIds : fields.tokenIds("eos_token_id"),
  };
}

function refuseUnsupported(fields: Fields): void {
  const activation = fields.text("hidden_act", "silu");
  if (activation !== "silu" && activation !== "swish") fields.unsupported("hidden_act", "supported is silu");
  if (fields.has("quantization_config")) {
    fields.unsupported("quantization_config", "use the unquantised checkpoint, or a GGUF file");
  }
  const partial = fields.positive("partial_rotary_factor", 1);
  if (partial !== 1) fields.unsupported("partial_rotary_factor", "supported is 1");
}

/** `layer_types` says which layers have the window; without it Qwen's `max_window_layers` does, else all have it. */
function slidingWindows(
  fields: Fields,
  window: number | undefined,
  numLayers: number,
): readonly (number | undefined)[] {
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
