// What the adapter needs of transformers.js. Both generations are handed in as modules, so that nothing here imports
// either: an application has one, the other, or both, and their CommonJS and ES builds are different copies.

/** The generation of transformers.js: `@xenova/transformers` 2, or `@huggingface/transformers` 3 and 4. */
export type Generation = "xenova" | "huggingface";

type Class = abstract new (...args: never[]) => unknown;
type Loader = Class & { from_pretrained(id: string, options?: never): Promise<unknown> };

/** The module of either generation, as `import * as host` or `require` gives it. */
export interface HostLike {
  readonly env: object;
  readonly AutoConfig: { from_pretrained(id: string, options?: never): Promise<unknown> };
  readonly AutoModelForCausalLM: { from_pretrained(id: string, options?: never): Promise<unknown> };
  readonly AutoTokenizer: { from_pretrained(id: string, options?: never): Promise<unknown> };
  readonly PretrainedConfig: Class;
  readonly PreTrainedModel: Loader;
  readonly PreTrainedTokenizer: Loader;
  readonly TextGenerationPipeline: Class;
  readonly Tensor: Class;
  readonly pipeline: (task: never, model?: never, options?: never) => Promise<unknown>;
}

/** Settings of the host that the adapter heeds. */
export interface HostEnv {
  readonly allowLocalModels: boolean;
  readonly allowRemoteModels: boolean;
  readonly localModelPath: string;
  readonly remoteHost: string;
  readonly remotePathTemplate: string;
  readonly cacheDir: string | null;
  /** Of the newer generation. */
  readonly fetch?: typeof fetch;
}

/** Options of the host's `pipeline` and `from_pretrained`, those that the adapter heeds. */
export interface HostLoadOptions {
  readonly progress_callback?: ((event: object) => void) | null | undefined;
  readonly cache_dir?: string | null | undefined;
  readonly local_files_only?: boolean | undefined;
  readonly revision?: string | undefined;
  /** Of the older generation; true is its default. */
  readonly quantized?: boolean | undefined;
  /** Of the newer one. */
  readonly dtype?: string | Readonly<Record<string, string>> | null | undefined;
  readonly session_options?: { readonly intraOpNumThreads?: number; readonly [name: string]: unknown } | undefined;
}

/** `[rows, columns]` of token ids, or one row of logits. */
export interface HostTensor {
  readonly dims: readonly number[];
  readonly data: BigInt64Array | Float32Array;
}

/** A list of the host's logits processors: one function, which takes ids and logits as its generation does. */
export interface HostProcessors {
  (ids: unknown, logits: unknown): HostTensor;
  readonly processors: readonly unknown[];
}

/** What both generations make of defaults, the model's generation_config.json and the caller's options. */
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
  readonly callback_function?: ((beams: readonly object[]) => void) | null;
}

/** The host's classes with the shapes that they have; types of the packages differ by version. */
export interface HostInside {
  readonly env: HostEnv;
  readonly PretrainedConfig: new (json: object) => object;
  readonly PreTrainedModel: new (config: object, sessions: object, configs?: object) => HostModel;
  readonly PreTrainedTokenizer: new (json: object, config: object) => HostTokenizer;
  readonly TextGenerationPipeline: new (parts: object) => object;
  readonly Tensor: new (type: string, data: BigInt64Array | Float32Array, dims: readonly number[]) => HostTensor;
  readonly StoppingCriteriaList?: new () => HostCriteria;
  readonly random?: { random(): number };
}

/** A model of the host: what the adapter's own uses of its base class. */
export interface HostModel {
  readonly config: object;
  can_generate: boolean;
}

/** Methods that both generations' models have for themselves, and that their subclasses may use. */
interface HostModelInside {
  _get_logits_processor(config: object, numTokens: number, own: unknown): HostProcessors;
  _prepare_generation_config?(config: object | null, options: object): HostGenerationConfig;
  _get_generation_config?(config: object | null): HostGenerationConfig;
}

/* oxlint-disable no-underscore-dangle -- the host's names */

export function logitsProcessors(model: HostModel, config: object, numTokens: number, own: unknown): HostProcessors {
  return (model as unknown as HostModelInside)._get_logits_processor(config, numTokens, own);
}

/** The host's defaults, the model's generation_config.json, `config` and `options`, the later before the earlier. */
export function generationConfig(model: HostModel, config: object | null, options: object): HostGenerationConfig {
  const inside = model as unknown as HostModelInside;
  const resolved =
    inside._prepare_generation_config?.(config, options) ?? inside._get_generation_config?.({ ...config, ...options });
  return resolved as HostGenerationConfig;
}

/* oxlint-enable no-underscore-dangle */

export interface HostCriteria {
  (ids: readonly (readonly bigint[])[]): readonly boolean[];
  extend(criteria: unknown): void;
  readonly criteria: readonly object[];
}

export interface HostTokenizer {
  (text: string, options?: object): { readonly input_ids: unknown };
  apply_chat_template(messages: unknown, options?: object): unknown;
}

/** Streamers came with the newer generation. */
export function generationOf(host: HostLike): Generation {
  return "TextStreamer" in host ? "huggingface" : "xenova";
}

export function insideOf(host: HostLike): HostInside {
  return host as unknown as HostInside;
}

/** @throws {TypeError} naming what a module must have to be transformers.js */
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
