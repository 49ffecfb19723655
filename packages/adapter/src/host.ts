// The parts of transformers.js ("the host") that the adapter uses. Both generations are passed in as modules, and
// nothing here imports either: an application has one, the other, or both, and their CommonJS and ES builds are
// different copies.

import type { ChatTemplate } from "@readme-moe/model";

/** The generation of transformers.js: `@xenova/transformers` 2, or `@huggingface/transformers` 3 and 4. */
export type Generation = "xenova" | "huggingface";

type Class = abstract new (...args: never[]) => unknown;
interface Auto {
  from_pretrained(id: string, options?: never): Promise<unknown>;
}
type Loader = Class & Auto;

/** The module of either generation, from `import * as host` or `require`. */
export interface HostLike {
  readonly env: object;
  readonly AutoConfig: Auto;
  readonly AutoModel: Auto;
  readonly AutoModelForCausalLM: Auto;
  readonly AutoModelForMaskedLM: Auto;
  readonly AutoModelForSequenceClassification: Auto;
  readonly AutoModelForTokenClassification: Auto;
  readonly AutoTokenizer: Auto;
  readonly PretrainedConfig: Class;
  readonly PreTrainedModel: Loader;
  readonly PreTrainedTokenizer: Loader;
  readonly TextGenerationPipeline: Class;
  readonly Tensor: Class;
  readonly pipeline: (task: never, model?: never, options?: never) => Promise<unknown>;
}

/** Settings of the host that the adapter reads. */
export interface HostEnv {
  readonly allowLocalModels: boolean;
  readonly allowRemoteModels: boolean;
  readonly localModelPath: string;
  readonly remoteHost: string;
  readonly remotePathTemplate: string;
  readonly cacheDir: string | null;
  /** Present in the newer generation only. */
  readonly fetch?: typeof fetch;
}

/** Options of the host's `pipeline` and `from_pretrained` that the adapter reads. */
export interface HostLoadOptions {
  readonly progress_callback?: ((event: object) => void) | null | undefined;
  readonly cache_dir?: string | null | undefined;
  readonly local_files_only?: boolean | undefined;
  readonly revision?: string | undefined;
  /** Present in the older generation only. @default true */
  readonly quantized?: boolean | undefined;
  /** Present in the newer generation only. */
  readonly dtype?: string | Readonly<Record<string, string>> | null | undefined;
  /** Present in the newer generation only; the engine runs on the CPU. */
  readonly device?: string | Readonly<Record<string, string>> | null | undefined;
  /** Folder of the ONNX files. @default "onnx" */
  readonly subfolder?: string | null | undefined;
  /** Name of the ONNX file without its ending for the data type. */
  readonly model_file_name?: string | null | undefined;
  readonly session_options?: { readonly intraOpNumThreads?: number; readonly [name: string]: unknown } | undefined;
}

/** Token ids `[rows, columns]`, or one row of logits. */
export interface HostTensor<Data = BigInt64Array> {
  readonly dims: readonly number[];
  readonly data: Data;
}

/** A list of the host's logits processors: one function, which takes ids and logits in its generation's form. */
export interface HostProcessors {
  (ids: unknown, logits: unknown): HostTensor<Float32Array>;
  readonly processors: readonly unknown[];
}

/** Options that both generations resolve from defaults, the model's generation_config.json and the caller's options. */
export interface HostGenerationConfig {
  do_sample: boolean;
  temperature: number | null;
  max_length: number | null;
  max_new_tokens: number | null;
  min_new_tokens: number | null;
  repetition_penalty: number | null;
  readonly top_k: number | null;
  readonly top_p: number | null;
  readonly num_beams: number;
  readonly num_return_sequences: number;
  readonly eos_token_id: number | readonly number[] | null;
  readonly pad_token_id: number | null;
  readonly return_dict_in_generate?: boolean;
  readonly output_attentions?: boolean;
  readonly callback_function?: ((beams: readonly object[]) => void) | null;
}

type FromPretrained = (id: string, options?: HostLoadOptions) => Promise<unknown>;

export interface HostLoader {
  from_pretrained: FromPretrained;
}

/** A class of the host whose `from_pretrained` makes instances of other classes. */
export type LoaderClass = HostLoader & (abstract new () => object);

/** The host's members in the form in which the adapter uses them; the packages' own types differ by version. */
export interface HostInside {
  readonly env: HostEnv;
  readonly AutoConfig: HostLoader;
  readonly AutoModelForCausalLM: HostLoader & Record<symbol, (() => void) | undefined> & (abstract new () => object);
  readonly AutoTokenizer: LoaderClass;
  readonly PretrainedConfig: new (json: object) => object;
  readonly PreTrainedModel: new (config: object, sessions: object, configs?: object) => HostModel;
  readonly PreTrainedTokenizer: new (json: object, config: object) => HostTokenizer;
  readonly TextGenerationPipeline: { new (parts: object): object; readonly prototype: object };
  readonly Tensor: new <Data extends BigInt64Array | Float32Array>(
    type: string,
    data: Data,
    dims: readonly number[],
  ) => HostTensor<Data>;
  readonly StoppingCriteriaList?: new () => HostCriteria;
  readonly random?: { random(): number };
  readonly pipeline: (task: string, model: string | null, options: HostLoadOptions) => Promise<unknown>;
  /** Tokenizer classes, by name. */
  readonly [name: string]: unknown;
}

/** A model of the host: the members of its base class that the adapter's own class uses. */
export interface HostModel {
  readonly config: object;
  can_generate: boolean;
  _get_logits_processor(config: object, numTokens: number, own: unknown): HostProcessors;
  _prepare_generation_config?(config: object | null, options: object): HostGenerationConfig;
  _get_generation_config(config: object | null): HostGenerationConfig;
}

/* oxlint-disable no-underscore-dangle -- the host's names */

export function logitsProcessors(model: HostModel, config: object, numTokens: number, own: unknown): HostProcessors {
  return model._get_logits_processor(config, numTokens, own);
}

/** Resolves `options` over `config`, over the model's generation_config.json, over the host's defaults. */
export function generationConfig(model: HostModel, config: object | null, options: object): HostGenerationConfig {
  return model._prepare_generation_config?.(config, options) ?? model._get_generation_config({ ...config, ...options });
}

/* oxlint-enable no-underscore-dangle */

export interface HostCriteria {
  (ids: readonly (readonly bigint[])[]): readonly boolean[];
  extend(criteria: unknown): void;
  readonly criteria: readonly object[];
}

export interface HostTokenizer {
  (text: string, options?: object): { readonly input_ids: unknown };
  apply_chat_template(messages: Parameters<ChatTemplate["render"]>[0], options?: object): unknown;
}

/** Detects the generation: only the newer one has streamers. */
export function generationOf(host: HostLike): Generation {
  return "TextStreamer" in host ? "huggingface" : "xenova";
}

export function insideOf(host: HostLike): HostInside {
  return host as unknown as HostInside;
}

/** @throws {TypeError} naming the members that a module lacks to be transformers.js */
export function checkHost(host: unknown): asserts host is HostLike {
  const needed = [
    "env",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "PreTrainedModel",
    "TextGenerationPipeline",
    "pipeline",
  ];
  const lacking = typeof host === "object" && host !== null ? needed.filter((name) => !(name in host)) : ["everything"];
  if (lacking.length === 0) return;
  const expectation = "the module of @huggingface/transformers or @xenova/transformers (import * as transformers)";
  throw new TypeError(`Expected \`transformers\` to be ${expectation}; it lacks ${lacking.join(", ")}`);
}
