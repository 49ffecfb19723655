// Finds out what a folder says of pooling: modules.json of sentence-transformers, the class in config.json, or a name.

import { join } from "node:path";
import { describeValue } from "@readme-moe/core";
import { Fields, MOST } from "../config/fields.ts";
import type {
  DenseConfig,
  EmbeddingConfig,
  LabelConfig,
  PoolingConfig,
  PoolingMode,
  ScoreConfig,
} from "../config/model-config.ts";
import { corrupt, quoted, unsupported } from "../files/errors.ts";
import { isList, readJsonFile, readJsonValue, readTextFile } from "../files/read-file.ts";
import type { ModelText } from "../text/load-text.ts";
import { LENGTH_FILE, MODULES_FILE, PROMPTS_FILE } from "./model.ts";

const MAX_BYTES = 1 << 20;
const CLASSIFIER = /For(?:Sequence|Token)Classification$/;
const SERVED = "served are Pooling of one token, of encoders also the mean, Dense, Normalize, and LogitScore";

/**
 * Reads what a folder's model gives for a whole text.
 *
 * @param config - config.json
 * @param isEncoder - whether its tokens see later ones too
 * @param loadText - loads the tokenizer, which is needed where a score is of two words
 * @returns `undefined` for a model that generates
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming the module, mode or class that is not served
 */
export async function readPooling(
  folder: string,
  config: Fields,
  isEncoder: boolean,
  loadText: () => Promise<Pick<ModelText, "tokenizer">>,
): Promise<PoolingConfig | undefined> {
  const modules = await readModules(join(folder, MODULES_FILE));
  if (modules !== undefined) return modulePooling(folder, modules, isEncoder);
  // As an encoder is used where nothing else is said.
  const className = config.texts("architectures")?.find((name) => CLASSIFIER.test(name));
  if (className !== undefined && isEncoder) return readLabels(config, className);
  if (className?.endsWith("ForSequenceClassification")) return classifierScore(config, className);
  if (isEncoder) return { kind: "embedding", mode: "mean", isNormalized: true, prompts: {} };
  return (await isQwenReranker(folder, config)) ? wordScore(folder, (await loadText()).tokenizer) : undefined;
}

interface Module {
  /** Name of the class. */
  readonly type: string;
  /** Folder of its config. */
  readonly folder: string;
}

async function readModules(path: string): Promise<readonly Module[] | undefined> {
  const list = await readJsonValue(path, MAX_BYTES);
  if (list === undefined) return undefined;
  if (!isList(list)) throw corrupt(path, `expected a list of modules, got ${describeValue(list)}`);
  const modules = list.map((value) => new Fields(path, value));
  return modules.map((fields) => {
    const folder = fields.text("path", "");
    // The name comes from a file, and must not lead out of the folder.
    if (!/^[\w-]*$/.test(folder)) throw corrupt(path, `expected the path of a module, got ${quoted(folder)}`);
    return { type: fields.text("type").split(".").at(-1) ?? "", folder };
  });
}

/** Follows the modules behind the transformer. */
async function modulePooling(
  folder: string,
  [first, ...modules]: readonly Module[],
  isEncoder: boolean,
): Promise<PoolingConfig> {
  const path = join(folder, MODULES_FILE);
  const refused = (what: string) => unsupported(path, `has ${what}, which is not supported; ${SERVED}`);
  if (first?.type !== "Transformer" || first.folder !== "")
    throw refused(`the first module ${quoted(first?.type ?? "")}`);
  const [pooling, ...others] = modules;
  const isNormalized = others.at(-1)?.type === "Normalize";
  const dense = isNormalized ? others.slice(0, -1) : others;
  const fieldsOf = async (module: Module): Promise<Fields> => {
    const configPath = join(folder, module.folder, "config.json");
    return new Fields(configPath, (await readJsonFile(configPath, MAX_BYTES)) ?? {});
  };
  if (pooling?.type === "Pooling" && dense.every(({ type }) => type === "Dense")) {
    const mode = readMode(await fieldsOf(pooling), isEncoder);
    const lengthPath = join(folder, LENGTH_FILE);
    const length = new Fields(lengthPath, (await readJsonFile(lengthPath, MAX_BYTES)) ?? {});
    const maxTokens =
      isEncoder && length.has("max_seq_length") ? length.size("max_seq_length", MOST.tokens) : undefined;
    const prompts = await readPrompts(join(folder, PROMPTS_FILE));
    const layers = await Promise.all(dense.map(async (module) => readDense(await fieldsOf(module), module.folder)));
    return { kind: "embedding", mode, isNormalized, ...prompts, maxTokens, dense: layers };
  }
  if (pooling?.type === "LogitScore" && others.length === 0) return logitScore(await fieldsOf(pooling));
  const unknown = modules.find(({ type }) => !["Pooling", "Dense", "Normalize", "LogitScore"].includes(type));
  throw refused(
    unknown ? `the module ${quoted(unknown.type)}` : `the modules ${modules.map(({ type }) => type).join()}`,
  );
}

/** Modes by their names in sentence-transformers. A decoder's last token alone has seen the whole text. */
const MODES: ReadonlyMap<unknown, PoolingMode> = new Map([
  ["lasttoken", "last"],
  ["cls_token", "first"],
  ["cls", "first"],
  ["mean_tokens", "mean"],
  ["mean", "mean"],
]);

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a mode that is not served, or for several */
function readMode(fields: Fields, isEncoder: boolean): PoolingMode {
  // Older files have one field for each mode.
  const flags = fields.names.filter((name) => name.startsWith("pooling_mode_") && fields.raw(name) === true);
  const named = fields.raw("pooling_mode") ?? flags.map((name) => name.slice("pooling_mode_".length));
  const modes = isList(named) ? named : [named];
  const mode = modes.length === 1 ? MODES.get(modes[0]) : undefined;
  if (mode !== undefined && (isEncoder || mode === "last")) return mode;
  const listed = modes.map((one) => describeValue(one)).join(", ") || "no mode";
  throw unsupported(fields.path, `pools by ${listed}, which is not supported; ${SERVED}`);
}

/** Name of the pooled state among the values that modules pass on. */
const STATE = "sentence_embedding";

/** Classes of torch by their last name; a Dense without one has Tanh. */
const DENSE_ACTIVATIONS: ReadonlyMap<string | undefined, DenseConfig["activation"]> = new Map([
  ["Identity", undefined],
  ["Tanh", "tanh"],
]);

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming another activation, or another input than the pooled state */
function readDense(fields: Fields, name: string): DenseConfig {
  const activation = fields.text("activation_function", "Tanh").split(".").at(-1);
  if (!DENSE_ACTIVATIONS.has(activation)) fields.unsupported("activation_function", "supported are Identity, Tanh");
  for (const place of ["module_input_name", "module_output_name"]) {
    if (fields.text(place, STATE) !== STATE) fields.unsupported(place, `supported is ${STATE}`);
  }
  return {
    name,
    inSize: fields.size("in_features", MOST.width),
    outSize: fields.size("out_features", MOST.width),
    hasBias: fields.boolean("bias", true),
    activation: DENSE_ACTIVATIONS.get(activation),
  };
}

/** Reads the texts that go before inputs. */
async function readPrompts(path: string): Promise<Pick<EmbeddingConfig, "prompts" | "defaultPrompt">> {
  const fields = new Fields(path, (await readJsonFile(path, MAX_BYTES)) ?? {});
  const prompts = fields.object("prompts");
  const names = prompts?.names ?? [];
  const texts = Object.fromEntries(names.map((name) => [name, prompts?.text(name) ?? ""]));
  const defaultPrompt = fields.has("default_prompt_name") ? fields.text("default_prompt_name") : undefined;
  return { prompts: texts, defaultPrompt };
}

function logitScore(fields: Fields): ScoreConfig {
  const [yes, no] = ["true_token_id", "false_token_id"].map((name) => fields.count(name));
  if (yes === undefined) throw fields.invalid("expected `true_token_id` to be a token id");
  return { kind: "score", head: { tokenIds: no === undefined ? [yes] : [yes, no] } };
}

/** Reads the labels of an encoder's classifier. */
function readLabels(config: Fields, className: string): LabelConfig {
  const labels = labelsOf(config);
  const problem = config.text("problem_type", "");
  if (problem === "regression" && labels.length > 1)
    config.unsupported("problem_type", `supported is regression with one label, not with ${labels.length}`);
  const isOfTokens = className.endsWith("ForTokenClassification");
  const isIndependent = problem === "multi_label_classification" || labels.length === 1;
  return {
    kind: "labels",
    mode: isOfTokens ? undefined : config.text("classifier_pooling", "cls") === "mean" ? "mean" : "first",
    labels,
    activation: isIndependent && !isOfTokens ? "sigmoid" : "softmax",
  };
}

/** Lists the names of a classifier's logits. @throws {ReadMeError} `ERR_MODEL_INVALID` when one is missing */
function labelsOf(config: Fields): readonly string[] {
  const named = config.object("id2label");
  const length = named?.names.length ?? config.size("num_labels", MOST.width, 2);
  if (length === 0) throw config.invalid("expected `id2label` to name a label, got none");
  return Array.from({ length }, (_, index) => named?.text(String(index)) ?? `LABEL_${index}`);
}

/** Reads a decoder that classifies into one class, whose logit is that of "relevant". */
function classifierScore(config: Fields, className: string): ScoreConfig {
  const numLabels = labelsOf(config).length;
  if (numLabels === 1) return { kind: "score", head: { tensor: "score.weight", numRows: 1, rows: [0] } };
  const advice = "served is one label of decoders, the relevance of a document";
  throw unsupported(config.path, `is a ${className} with ${numLabels} labels, which is not supported; ${advice}`);
}

/** Tells whether a folder is Qwen3-Reranker's as it was first published, which only the name and the README say. */
async function isQwenReranker(folder: string, config: Fields): Promise<boolean> {
  if (config.raw("model_type") !== "qwen3") return false;
  if (/qwen3-reranker/i.test(folder)) return true;
  const readme = await readTextFile(join(folder, "README.md"), MAX_BYTES).catch(() => undefined);
  return /^# Qwen3-Reranker/m.test(readme ?? "");
}

function wordScore(folder: string, tokenizer: ModelText["tokenizer"]): ScoreConfig {
  const [yes, no] = ["yes", "no"].map((word) => tokenizer.tokenId(word));
  if (yes !== undefined && no !== undefined) return { kind: "score", head: { tokenIds: [yes, no] } };
  throw unsupported(folder, 'is a reranker whose vocabulary has no tokens "yes" and "no"');
}
