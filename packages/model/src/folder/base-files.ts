// What a model has besides weights: config, tokenizer and chat template, and its licence.

import { isRecord } from "@readme-moe/core";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { familyOf } from "../config/families.ts";
import type { Family } from "../config/family.ts";
import { type Activation, attentionFactorOf, type ModelConfig, type RopeConfig } from "../config/model-config.ts";
import { type JsonObject, readJsonFile, readTextFile } from "../files/read-file.ts";
import { ggufMetadata, GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import type { GgufMetadata } from "../gguf/header.ts";
import { ggufTokenizerSource } from "../text/gguf-tokenizer.ts";
import { readTokenizerConfig } from "../text/load-text.ts";
import { TOKEN_ROLES } from "../text/vocabulary.ts";
import { toJson } from "../files/write-file.ts";
import { CONFIG_FILE, type Model, TEXT_FILES } from "./model.ts";

const MAX_BYTES = 256 << 20;
const MAX_CARD_BYTES = 16 << 20;

/** The files of a model folder besides weights. */
interface BaseFiles {
  readonly config: JsonObject;
  /** The other files, by name. */
  readonly texts: Readonly<Record<string, string>>;
}

/**
 * Reads a dense model's files besides its weights: a folder's own files, or those that a Hugging Face folder would have
 * instead of the GGUF file. config.json does not say that weights are quantised, since those that are written are not.
 * @throws {ReadMeError} as `model.loadText`
 */
export async function baseFiles(model: Model): Promise<BaseFiles> {
  if (!(await stat(model.path)).isDirectory()) return filesOfGguf(model);
  const { quantization_config: _, ...config } = (await readJsonFile(join(model.path, CONFIG_FILE), MAX_BYTES)) ?? {};
  const texts: Record<string, string> = {};
  for (const name of TEXT_FILES) {
    const text = await readTextFile(join(model.path, name), MAX_BYTES);
    if (text !== undefined) texts[name] = text;
  }
  return { config, texts };
}

async function filesOfGguf(model: Model): Promise<BaseFiles> {
  return {
    config: exportedConfig(model.config, undefined, { dtypes: ["fp32"], withDataFile: [] }),
    texts: {
      "generation_config.json": toJson(exportedGenerationConfig(model.config, undefined)),
      ...Object.fromEntries(await exportedText(model)),
    },
  };
}

/**
 * Reads a model's licence, as it is spelled in a GGUF file's metadata or at the head of a folder's model card.
 * @returns `undefined` when there is none
 */
export async function modelLicense({ path, weights }: Pick<Model, "path" | "weights">): Promise<string | undefined> {
  const { store } = weights.embedding;
  if (store instanceof GgufTensorStore) {
    const license = store.file.metadata.get("general.license");
    return typeof license === "string" && license !== "" ? license : undefined;
  }
  if (!(await stat(path)).isDirectory()) return undefined;
  const card = await readTextFile(join(path, "README.md"), MAX_CARD_BYTES);
  const [, head] = /^---\r?\n(.*?)\r?\n---/s.exec(card ?? "") ?? [];
  const [, value] = /^license:[ \t]*["']?([\w.+-]+)["']?[ \t]*$/m.exec(head ?? "") ?? [];
  return value;
}

// config.json and generation_config.json of an exported folder.

/** Graphs that config.json describes. */
interface ExportedFiles {
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
    // Exported graphs have no factor of queries, which is 1 up to there.
    max_position_embeddings: config.queryGrowth?.period ?? config.contextTokens,
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

const ACTIVATION_NAMES: Readonly<Record<Activation, string>> = {
  silu: "silu",
  "gelu-tanh": "gelu_pytorch_tanh",
  gelu: "gelu",
  clamped: "silu",
};

/** Makes the fields of RoPE in both spellings; those of families whose layers alternate name these layers, too. */
function ropeConfigFields(config: ModelConfig, { alternation, attentionScalar }: Family): JsonObject {
  const { layers, ropes } = config;
  const contextTokens = config.queryGrowth?.period ?? config.contextTokens;
  const ropeOf = (hasWindow: boolean): RopeConfig | undefined => {
    const layer = layers.find(({ slidingWindow, angleSet }) => {
      return angleSet !== undefined && (!alternation?.theta || (slidingWindow !== undefined) === hasWindow);
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
  const scalar = attentionScalar === undefined ? {} : { [attentionScalar]: config.attentionScale ** -2 };
  if (!alternation?.theta) return { ...older, ...scalar, rope_parameters: full ? parameters(full) : null };
  const window = layers.find(({ slidingWindow }) => slidingWindow !== undefined)?.slidingWindow;
  return {
    ...older,
    ...scalar,
    rope_parameters: {
      ...(full ? { full_attention: parameters(full) } : {}),
      ...(sliding ? { sliding_attention: parameters(sliding) } : {}),
    },
    ...(sliding ? { [alternation.theta]: sliding.theta } : {}),
    ...(window === undefined ? {} : { sliding_window: window }),
    layer_types: layers.map(({ slidingWindow }) => (slidingWindow ? "sliding_attention" : "full_attention")),
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

function mixtureFields({ modelType, mixture, layers }: ModelConfig): JsonObject {
  if (!mixture) return {};
  const { sharedSize } = familyOf(modelType).mixture ?? {};
  return {
    ...(sharedSize === undefined ? {} : { [sharedSize]: mixture.sharedSize }),
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
  // The only spelling with a factor for each frequency.
  const type = rope.type === "factors" ? "longrope" : rope.type;
  return {
    rope_type: type,
    ...("originalContextTokens" in rope ? { original_max_position_embeddings: rope.originalContextTokens } : {}),
    ...ropeNumbers(rope, contextTokens),
  };
}

function ropeNumbers(rope: RopeConfig, contextTokens: number): JsonObject {
  switch (rope.type) {
    case "default":
      return {};
    case "linear":
      return { factor: rope.factor };
    case "llama3":
      return { factor: rope.factor, low_freq_factor: rope.lowFreqFactor, high_freq_factor: rope.highFreqFactor };
    case "longrope":
      return {
        long_factor: rope.longFactors,
        short_factor: rope.shortFactors,
        ...ownAttentionFactor(rope, contextTokens),
      };
    case "yarn":
      return {
        factor: rope.factor,
        beta_fast: rope.fastTurns,
        beta_slow: rope.slowTurns,
        truncate: rope.isRounded,
        attention_factor: rope.attentionFactor,
      };
    case "proportional":
      return { partial_rotary_factor: rope.share };
    case "factors":
      return {
        long_factor: rope.factors,
        short_factor: rope.factors,
        original_max_position_embeddings: contextTokens,
        attention_factor: 1,
      };
    default:
      throw new TypeError(`Unknown RoPE type: ${String(rope satisfies never)}`);
  }
}

// Tokenizer files of an exported folder, in spellings that old and new versions of transformers.js read.

/** Contents of a model's tokenizer files, or of the metadata that a GGUF file has instead. */
interface TextSource {
  readonly tokenizer: JsonObject;
  readonly config: JsonObject;
  /** A template, or a list of `{ name, template }`; `undefined` for a model that was not made for chat. */
  readonly chatTemplate: unknown;
}

/**
 * Makes the tokenizer files of an exported folder, by name.
 *
 * @throws {ReadMeError} as `model.loadText`: a tokenizer that we cannot read is not exported
 */
export async function exportedText(model: Model): Promise<ReadonlyMap<string, string>> {
  await model.loadText();
  const isFolder = (await stat(model.path)).isDirectory();
  const { tokenizer, config, chatTemplate } = isFolder
    ? await folderText(model.path)
    : ggufText(await ggufMetadata(model.path), model.path, model.config.contextTokens);
  const files = new Map([
    ["tokenizer.json", toJson(withPlainMerges(tokenizer))],
    // Only newer versions read chat_template.jinja; only older ones need plain strings in the config.
    ["tokenizer_config.json", toJson({ ...withPlainRoles(config), chat_template: chatTemplate })],
  ]);
  const source = defaultTemplate(chatTemplate);
  if (source !== undefined) files.set("chat_template.jinja", source);
  return files;
}

async function folderText(folder: string): Promise<TextSource> {
  const config = await readTokenizerConfig(folder);
  const chatTemplate = await readTextFile(join(folder, "chat_template.jinja"), MAX_BYTES);
  return {
    tokenizer: (await readJsonFile(join(folder, "tokenizer.json"), MAX_BYTES)) ?? {},
    config,
    chatTemplate: chatTemplate ?? config["chat_template"],
  };
}

function ggufText(metadata: GgufMetadata, path: string, contextTokens: number): TextSource {
  const { tokenizer, config } = ggufTokenizerSource(metadata, path);
  const [source, toolUse] = ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"].map((key) =>
    metadata.get(key),
  );
  const named = [
    { name: "default", template: source },
    { name: "tool_use", template: toolUse },
  ];
  return {
    tokenizer: { version: "1.0", truncation: null, padding: null, ...tokenizer },
    config: {
      ...config,
      tokenizer_class: "PreTrainedTokenizerFast",
      clean_up_tokenization_spaces: false,
      model_max_length: contextTokens,
      add_bos_token: beginsWithToken(tokenizer["post_processor"]),
    },
    chatTemplate: source === undefined || toolUse === undefined ? source : named,
  };
}

function beginsWithToken(postProcessor: unknown): boolean {
  const single = isRecord(postProcessor) ? postProcessor["single"] : undefined;
  const first: unknown = Array.isArray(single) ? single[0] : undefined;
  return isRecord(first) && "SpecialToken" in first;
}

function defaultTemplate(chatTemplate: unknown): string | undefined {
  if (typeof chatTemplate === "string") return chatTemplate;
  const named: readonly unknown[] = Array.isArray(chatTemplate) ? chatTemplate : [];
  const found = named.filter(isRecord).find((entry) => entry["name"] === "default");
  return typeof found?.["template"] === "string" ? found["template"] : undefined;
}

/** Spells merges as `"a b"`, which old and new versions read, unless a token contains a space. */
function withPlainMerges(tokenizer: JsonObject): JsonObject {
  const model = tokenizer["model"];
  const merges: readonly unknown[] = isRecord(model) && Array.isArray(model["merges"]) ? model["merges"] : [];
  if (
    !merges.every(
      (merge) => Array.isArray(merge) && merge.every((part) => typeof part === "string" && !part.includes(" ")),
    )
  )
    return tokenizer;
  return { ...tokenizer, model: { ...(model as JsonObject), merges: merges.map((m) => (m as string[]).join(" ")) } };
}

/** Spells tokens with a role as texts: older versions do not read objects. */
function withPlainRoles(config: JsonObject): JsonObject {
  const roles = TOKEN_ROLES.flatMap((role) => {
    const value = config[role];
    return isRecord(value) ? [[role, value["content"]]] : [];
  });
  return { ...config, ...(Object.fromEntries(roles) as JsonObject) };
}
