// Families of encoders, and their config.json or GGUF metadata as a ModelConfig: every token sees every other one.

import { type Fields, MOST } from "./fields.ts";
import type { Activation, EncoderConfig, ModelConfig, RopeConfig } from "./model-config.ts";

/** Names of a layer's tensors, behind `<layers>N.`, without `.weight` and `.bias`. */
interface EncoderLayerNames {
  /** Query, key and value one by one, or in one tensor, one after the other. */
  readonly qkv: readonly [query: string, key: string, value: string] | string;
  readonly attentionOutput: string;
  readonly attentionNorm: string;
  /** `undefined` for FFNs without a gate; the same as `up` when one tensor has the rows of gate, then those of up. */
  readonly gate?: string;
  readonly up: string;
  readonly down: string;
  readonly ffnNorm: string;
}

/** Properties of one family of encoders. Absent ones are BERT's. */
export interface EncoderFamily {
  /** `general.architecture` of GGUF files. @default files of the family have BERT's, or none are read */
  readonly architecture?: string;
  /** Beginning of all names in checkpoints that have a head besides. */
  readonly prefix: string;
  readonly words: string;
  readonly positions?: string;
  readonly segments?: string;
  readonly embeddingNorm: string;
  /** Beginning of a layer's names, before its number. */
  readonly layers: string;
  readonly names: EncoderLayerNames;
  /** Table of attention's addends by distance, in buckets (MPNet). */
  readonly distances?: string;
  /** Norm in front of the head, of models whose norms are in front of attention and FFN. */
  readonly finalNorm?: string;
  /** Config fields by BERT's names, where the family has others. */
  readonly fields?: Readonly<Record<string, string>>;
  readonly defaults?: Readonly<Record<string, unknown>>;
  /** Whether positions count from the id of padding on, so that the first ones of the table are not used. */
  readonly hasPaddedPositions?: boolean;
  /** Whether queries and keys are rotated; `"by type"` has angles for layers with a window and others (ModernBERT). */
  readonly rotates?: boolean | "by type";
  readonly hasBias?: boolean;
  /** Layers from the state of a text to logits, of checkpoints that classify. @default they are not read */
  readonly classifier?: readonly ClassifierLayer[];
  /** Layers from the state of a token to logits. @default `TAGGER` */
  readonly tagger?: readonly ClassifierLayer[];
  /** Head of checkpoints that fill masks. @default it is not read */
  readonly masked?: MaskedNames;
}

/** Names of the head that fills masks: a layer, and logits of all tokens, by the embedding table if they are tied. */
interface MaskedNames {
  readonly transform: ClassifierLayer;
  readonly decoder: string;
  /** Module that has the decoder's bias. @default the decoder */
  readonly bias?: string;
}

/** One layer of a classifier: a product, and what follows it. */
export interface ClassifierLayer {
  readonly name: string;
  readonly activation?: "tanh" | "relu" | "gelu";
  readonly norm?: string;
}

const BERT_NAMES: EncoderLayerNames = {
  qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
  attentionOutput: "attention.output.dense",
  attentionNorm: "attention.output.LayerNorm",
  up: "intermediate.dense",
  down: "output.dense",
  ffnNorm: "output.LayerNorm",
};

/** Classifier of tokens of most families. */
export const TAGGER: readonly ClassifierLayer[] = [{ name: "classifier" }];

const BERT: EncoderFamily = {
  architecture: "bert",
  prefix: "bert.",
  words: "embeddings.word_embeddings",
  positions: "embeddings.position_embeddings",
  segments: "embeddings.token_type_embeddings",
  embeddingNorm: "embeddings.LayerNorm",
  layers: "encoder.layer.",
  names: BERT_NAMES,
  defaults: { type_vocab_size: 2 },
  classifier: [{ name: "bert.pooler.dense", activation: "tanh" }, ...TAGGER],
  masked: {
    transform: {
      name: "cls.predictions.transform.dense",
      activation: "gelu",
      norm: "cls.predictions.transform.LayerNorm",
    },
    decoder: "cls.predictions.decoder",
    bias: "cls.predictions",
  },
};

/** Classifier of RoBERTa, which its descendants have too. */
const DENSE_CLASSIFIER: readonly ClassifierLayer[] = [
  { name: "classifier.dense", activation: "tanh" },
  { name: "classifier.out_proj" },
];

/** Head of RoBERTa that fills masks, which its descendants have too. */
const LANGUAGE_HEAD: MaskedNames = {
  transform: { name: "lm_head.dense", activation: "gelu", norm: "lm_head.layer_norm" },
  decoder: "lm_head.decoder",
  bias: "lm_head",
};

const MODERN_LAYER: ClassifierLayer = { name: "head.dense", activation: "gelu", norm: "head.norm" };

const { architecture: _architecture, ...BERT_CHECKPOINT } = BERT;
const { segments: _segments, ...BERT_WITHOUT_SEGMENTS } = BERT_CHECKPOINT;

const ROBERTA: EncoderFamily = {
  ...BERT_CHECKPOINT,
  prefix: "roberta.",
  hasPaddedPositions: true,
  defaults: { pad_token_id: 1, layer_norm_eps: 1e-5 },
  classifier: DENSE_CLASSIFIER,
  masked: LANGUAGE_HEAD,
};

const ENCODERS: Readonly<Record<string, EncoderFamily>> = {
  bert: BERT,
  roberta: ROBERTA,
  "xlm-roberta": ROBERTA,
  mpnet: {
    ...BERT_WITHOUT_SEGMENTS,
    prefix: "mpnet.",
    names: {
      ...BERT_NAMES,
      qkv: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
      attentionOutput: "attention.attn.o",
      attentionNorm: "attention.LayerNorm",
    },
    distances: "encoder.relative_attention_bias",
    classifier: DENSE_CLASSIFIER,
    masked: LANGUAGE_HEAD,
    hasPaddedPositions: true,
    defaults: { pad_token_id: 1, relative_attention_num_buckets: 32 },
  },
  distilbert: {
    ...BERT_WITHOUT_SEGMENTS,
    prefix: "distilbert.",
    layers: "transformer.layer.",
    names: {
      qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
      attentionOutput: "attention.out_lin",
      attentionNorm: "sa_layer_norm",
      up: "ffn.lin1",
      down: "ffn.lin2",
      ffnNorm: "output_layer_norm",
    },
    classifier: [{ name: "pre_classifier", activation: "relu" }, ...TAGGER],
    masked: {
      transform: { name: "vocab_transform", activation: "gelu", norm: "vocab_layer_norm" },
      decoder: "vocab_projector",
    },
    fields: {
      hidden_size: "dim",
      num_attention_heads: "n_heads",
      num_hidden_layers: "n_layers",
      intermediate_size: "hidden_dim",
      hidden_act: "activation",
    },
  },
  nomic_bert: {
    architecture: "nomic-bert",
    prefix: "bert.",
    words: "embeddings.word_embeddings",
    segments: "embeddings.token_type_embeddings",
    embeddingNorm: "emb_ln",
    layers: "encoder.layers.",
    names: {
      qkv: "attn.Wqkv",
      attentionOutput: "attn.out_proj",
      attentionNorm: "norm1",
      gate: "mlp.fc12",
      up: "mlp.fc11",
      down: "mlp.fc2",
      ffnNorm: "norm2",
    },
    rotates: true,
    hasBias: false,
    // As in the folders that Nomic has published.
    fields: {
      hidden_size: "n_embd",
      num_attention_heads: "n_head",
      num_hidden_layers: "n_layer",
      intermediate_size: "n_inner",
      hidden_act: "activation_function",
      layer_norm_eps: "layer_norm_epsilon",
    },
    defaults: { type_vocab_size: 2, hidden_act: "silu", max_position_embeddings: 2048 },
  },
  modernbert: {
    architecture: "modern-bert",
    prefix: "model.",
    words: "embeddings.tok_embeddings",
    embeddingNorm: "embeddings.norm",
    layers: "layers.",
    names: {
      qkv: "attn.Wqkv",
      attentionOutput: "attn.Wo",
      attentionNorm: "attn_norm",
      gate: "mlp.Wi",
      up: "mlp.Wi",
      down: "mlp.Wo",
      ffnNorm: "mlp_norm",
    },
    finalNorm: "final_norm",
    classifier: [MODERN_LAYER, ...TAGGER],
    tagger: [MODERN_LAYER, ...TAGGER],
    masked: { transform: MODERN_LAYER, decoder: "decoder" },
    fields: { hidden_act: "hidden_activation", layer_norm_eps: "norm_eps" },
    defaults: {
      norm_eps: 1e-5,
      max_position_embeddings: 8192,
      local_attention: 128,
      global_attn_every_n_layers: 3,
      global_rope_theta: 160_000,
      local_rope_theta: 10_000,
    },
    rotates: "by type",
    hasBias: false,
  },
};

/** `model_type` of all supported families of encoders. */
export const ENCODER_TYPES: readonly string[] = Object.keys(ENCODERS);

/** `general.architecture` of all supported families of encoders. */
export const ENCODER_ARCHITECTURES: readonly string[] = Object.values(ENCODERS).flatMap(
  ({ architecture }) => architecture ?? [],
);

/** Finds the `model_type` of GGUF files of an architecture. */
export function encoderTypeOf(architecture: unknown): string | undefined {
  return ENCODER_TYPES.find((name) => ENCODERS[name]?.architecture === architecture);
}

/** Looks up a family. @throws {TypeError} for a `model_type` that no config can have */
export function encoderFamily(modelType: string): EncoderFamily {
  const family = ENCODERS[modelType];
  if (family === undefined) throw new TypeError(`Expected the \`model_type\` of an encoder, got \`${modelType}\``);
  return family;
}

const ACTIVATIONS: ReadonlyMap<string, Activation> = new Map([
  ["gelu", "gelu"],
  ["gelu_python", "gelu"],
  ["gelu_new", "gelu-tanh"],
  ["gelu_pytorch_tanh", "gelu-tanh"],
  ["silu", "silu"],
  ["swish", "silu"],
  ["swiglu", "silu"],
]);

/**
 * Reads the config of an encoder.
 *
 * @param plain - fields of config.json, whose `model_type` is one of `ENCODER_TYPES`
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` or `ERR_MODEL_INVALID`, naming the file and the field
 */
export function parseEncoder(plain: Fields): ModelConfig {
  const modelType = plain.text("model_type");
  const family = encoderFamily(modelType);
  const fields = plain.withDefaults(family.defaults ?? {});
  // Configs of later libraries may have BERT's names.
  const named = (name: string): string => {
    const own = family.fields?.[name];
    return own === undefined || (fields.has(name) && !fields.has(own)) ? name : own;
  };
  refuseOthers(fields);
  const hiddenSize = fields.size(named("hidden_size"), MOST.width);
  const numHeads = fields.size(named("num_attention_heads"), MOST.heads);
  const headSize = hiddenSize / numHeads;
  if (!Number.isInteger(headSize) || headSize % 2 !== 0)
    throw fields.invalid(`${numHeads} attention heads cannot share the hidden size ${hiddenSize} evenly, in pairs`);
  const numLayers = fields.size(named("num_hidden_layers"), MOST.layers);
  const firstPosition = family.hasPaddedPositions ? (fields.count("pad_token_id") ?? 0) + 1 : 0;
  const contextTokens = fields.size("max_position_embeddings", MOST.tokens, 512) - firstPosition;
  if (contextTokens < 1) throw fields.invalid("expected `max_position_embeddings` to be more than `pad_token_id` + 1");
  return {
    modelType,
    vocabSize: fields.size("vocab_size", MOST.vocab),
    hiddenSize,
    intermediateSize: fields.size(named("intermediate_size"), MOST.width),
    numLayers,
    numHeads,
    numKvHeads: numHeads,
    headSize,
    rotatedSize: headSize,
    norms: {},
    normOffset: 0,
    rmsNormEpsilon: fields.positive(named("layer_norm_eps"), 1e-12),
    qkNorm: undefined,
    activation:
      ACTIVATIONS.get(fields.text(named("hidden_act"), "gelu")) ??
      fields.unsupported(named("hidden_act"), `supported are ${Array.from(ACTIVATIONS.keys()).join(", ")}`),
    contextTokens,
    ...encoderLayers(fields, family, numLayers),
    embeddingScale: 1,
    residualScale: 1,
    attentionScale: 1 / Math.sqrt(headSize),
    logitScale: 1,
    hasQkvBias: family.hasBias ?? true,
    hasOutputBias: family.hasBias ?? true,
    hasMlpBias: family.hasBias ?? true,
    hasTiedEmbeddings: true,
    bosTokenId: undefined,
    eosTokenIds: [],
    encoder: encoderOf(fields, family, firstPosition),
  };
}

function encoderOf(fields: Fields, family: EncoderFamily, firstPosition: number): EncoderConfig {
  return {
    isPostNorm: family.finalNorm === undefined,
    firstPosition: family.positions === undefined ? undefined : firstPosition,
    numSegments: family.segments === undefined ? 0 : fields.size("type_vocab_size", 64, 1),
    numDistanceBuckets:
      family.distances === undefined ? 0 : fields.size("relative_attention_num_buckets", MOST.integer),
  };
}

/** Refuses computations that some configs of these families ask for. */
function refuseOthers(fields: Fields): void {
  const kind = fields.text("position_embedding_type", "absolute");
  if (kind !== "absolute") fields.unsupported("position_embedding_type", "supported is absolute");
  for (const name of ["is_decoder", "sinusoidal_pos_embds", "attention_bias", "mlp_bias", "prenorm"]) {
    if (fields.raw(name)) fields.unsupported(name, "supported is a config without it");
  }
}

type Layers = Pick<ModelConfig, "layers" | "ropes">;

function encoderLayers(fields: Fields, { rotates = false }: EncoderFamily, numLayers: number): Layers {
  const layer = { slidingWindow: undefined, angleSet: rotates ? 0 : undefined, isMixture: false };
  const layers = Array.from({ length: numLayers }, () => layer);
  if (!rotates) return { layers, ropes: [] };
  const parameters = fields.object("rope_parameters");
  if (rotates === true) {
    const theta = parameters?.positive("rope_theta", 10_000) ?? fields.positive("rotary_emb_base", 10_000);
    return { layers, ropes: [{ type: "default", theta }] };
  }
  const thetaOf = (type: string, older: string): number =>
    parameters?.object(type)?.positive("rope_theta") ?? fields.positive(older);
  const ropes: readonly RopeConfig[] = [
    { type: "default", theta: thetaOf("full_attention", "global_rope_theta") },
    { type: "default", theta: thetaOf("sliding_attention", "local_rope_theta") },
  ];
  // A query sees half of the window on each side, and its own position.
  const slidingWindow = Math.floor(fields.size("local_attention", MOST.integer) / 2) + 1;
  const isFull = fullLayers(fields, numLayers);
  // The kernel refuses angles that no layer uses.
  const used = [isFull.includes(true), isFull.includes(false)];
  return {
    layers: isFull.map((full) => ({
      ...layer,
      slidingWindow: full ? undefined : slidingWindow,
      angleSet: full || !used[0] ? 0 : 1,
    })),
    ropes: ropes.filter((__, index) => used[index]),
  };
}

function fullLayers(fields: Fields, numLayers: number): readonly boolean[] {
  const interval = fields.size("global_attn_every_n_layers", MOST.integer);
  const types = fields.texts("layer_types");
  if (types === undefined) return Array.from({ length: numLayers }, (__, index) => index % interval === 0);
  if (types.length === numLayers) return types.map((type) => type === "full_attention");
  throw fields.invalid(`\`layer_types\` has ${types.length} entries for ${numLayers} layers`);
}

// GGUF files of encoders: metadata under the field names of config.json, and tensor names.

/** Metadata keys, behind the architecture's name, by BERT's fields and those of families with RoPE. */
const GGUF_KEYS: Readonly<Record<string, string>> = {
  hidden_size: "embedding_length",
  intermediate_size: "feed_forward_length",
  num_hidden_layers: "block_count",
  num_attention_heads: "attention.head_count",
  layer_norm_eps: "attention.layer_norm_epsilon",
  max_position_embeddings: "context_length",
  rotary_emb_base: "rope.freq_base",
  global_rope_theta: "rope.freq_base",
  local_rope_theta: "rope.freq_base_swa",
  local_attention: "attention.sliding_window",
};

/**
 * Lists the fields of config.json that a GGUF file has. Converters cut positions that a family does not use.
 *
 * @param get - reads the value of a key behind the architecture's name
 * @param numRows - counts the rows of a tensor by its name without `.weight`; 0 if there is none
 */
export function ggufEncoderFields(
  modelType: string,
  get: (key: string) => unknown,
  numRows: (name: string) => number,
): Readonly<Record<string, unknown>> {
  const { fields = {}, words, segments = "" } = encoderFamily(modelType);
  const values = Object.entries(GGUF_KEYS).map(([field, key]) => [fields[field] ?? field, get(key)] as const);
  return {
    ...Object.fromEntries(values),
    model_type: modelType,
    vocab_size: numRows(words),
    type_vocab_size: numRows(segments) || undefined,
  };
}

/** Name of a tensor of a GGUF file, such as `blk.3.attn_q.weight`. */
export const GGML_NAME: RegExp =
  /^(?:blk\.(?<layer>0|[1-9]\d*)\.)?(?<part>cls\.(?:norm|output)|[^.]+)\.(?<kind>weight|bias)$/;

/** Translates a name of an encoder's GGUF file to that of its family; an unknown name stays as it is. */
export function encoderNameOf(ggmlName: string, family: EncoderFamily): string {
  const { layer, part = "", kind } = GGML_NAME.exec(ggmlName)?.groups ?? {};
  const { names, classifier = [] } = family;
  const [query, key, value] = typeof names.qkv === "string" ? [] : names.qkv;
  const parts: Readonly<Record<string, string | undefined>> =
    layer === undefined
      ? {
          token_embd: family.words,
          position_embd: family.positions,
          token_types: family.segments,
          token_embd_norm: family.embeddingNorm,
          output_norm: family.finalNorm,
          cls: classifier[0]?.name,
          "cls.norm": classifier[0]?.norm,
          "cls.output": classifier.at(-1)?.name,
        }
      : {
          attn_q: query,
          attn_k: key,
          attn_v: value,
          attn_qkv: typeof names.qkv === "string" ? names.qkv : undefined,
          attn_output: names.attentionOutput,
          [family.finalNorm === undefined ? "attn_output_norm" : "attn_norm"]: names.attentionNorm,
          ffn_gate: names.gate,
          ffn_up: names.up,
          ffn_down: names.down,
          [family.finalNorm === undefined ? "layer_output_norm" : "ffn_norm"]: names.ffnNorm,
        };
  const name = Object.hasOwn(parts, part) ? parts[part] : undefined;
  if (name === undefined || kind === undefined) return ggmlName;
  return `${layer === undefined ? "" : `${family.layers}${layer}.`}${name}.${kind}`;
}
