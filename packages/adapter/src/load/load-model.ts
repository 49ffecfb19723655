import { baseFiles, type ChatTemplate, exportedText, openModel, type Model } from "@readme-moe/model";
import {
  generationOf,
  insideOf,
  type HostInside,
  type HostLike,
  type HostLoadOptions,
  type HostTokenizer,
} from "../host.ts";
import { checkResult, type EncoderResult, hostEncoder } from "../encoder-class.ts";
import { hostModel } from "../model-class.ts";
import { engineOptionsOf, type AdapterOptions } from "../options.ts";
import { leaseEngine } from "./engine-pool.ts";
import type { Located } from "./locate.ts";
import { warnOnce } from "./try-engine.ts";

/** Reads a folder's config.json, or makes the same from a GGUF file. @throws {ReadMeError} as `openModel` */
export async function loadConfig(path: string): Promise<object> {
  return withModel(path, async (model) => (await baseFiles(model)).config);
}

/** @throws {ReadMeError} as `openModel` and `model.loadText` */
export async function loadTokenizer(host: HostLike, path: string): Promise<HostTokenizer> {
  return withModel(path, (model) => tokenizerOf(host, model));
}

export interface LoadedModel {
  /** Instance of the host's own class. */
  readonly model: object;
  readonly tokenizer: HostTokenizer;
}

/** @throws {ReadMeError} as `ReadMeEngine.open` */
export async function loadModel(
  host: HostLike,
  { path, dtype }: Located,
  options: HostLoadOptions,
  adapter: AdapterOptions,
): Promise<LoadedModel> {
  const generation = generationOf(host);
  warnOfDevice(options.device);
  return withModel(path, async (opened) => {
    const { config, texts } = await baseFiles(opened);
    const tokenizer = await tokenizerOf(host, opened);
    const { tokenizer: own } = await opened.loadText();
    const chosen = dtype === undefined ? options : { ...options, dtype };
    const lease = await leaseEngine(path, engineOptionsOf(generation, chosen, adapter));
    const generationConfig: object = JSON.parse(texts["generation_config.json"] ?? "{}");
    const isSpecial = (tokenId: number): boolean => own.decode([tokenId], { skipSpecialTokens: true }) === "";
    return { model: hostModel(host, { lease, config, generationConfig, isSpecial }), tokenizer };
  });
}

/** Options of an encoder, and the result that its caller needs. */
interface EncoderOptions {
  readonly options: HostLoadOptions;
  readonly adapter: AdapterOptions;
  readonly result: EncoderResult;
}

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a model that does not give the result; as `ReadMeEngine.open` */
export async function loadEncoder(
  host: HostLike,
  { path, dtype }: Located,
  { options, adapter, result }: EncoderOptions,
): Promise<LoadedModel> {
  warnOfDevice(options.device);
  return withModel(path, async (opened) => {
    checkResult(opened, result);
    const { config } = await baseFiles(opened);
    const tokenizer = await tokenizerOf(host, opened);
    const chosen = engineOptionsOf(generationOf(host), dtype === undefined ? options : { ...options, dtype }, adapter);
    // Vectors are compared with those of other programs, so they are the host's unless it is told otherwise.
    const lease = await leaseEngine(path, { precision: "fp32", ...chosen });
    return { model: hostEncoder(host, { lease, config, result }), tokenizer };
  });
}

/** Devices of the host that mean the processor, or leave the choice to the host. */
const CPU: readonly string[] = ["cpu", "auto"];

function warnOfDevice(device: HostLoadOptions["device"]): void {
  const names = typeof device === "object" && device !== null ? Object.values(device) : [device ?? "cpu"];
  const other = names.find((name) => !CPU.includes(name));
  if (other === undefined) return;
  warnOnce(`The engine runs models on the CPU; \`device: ${JSON.stringify(other)}\` has no effect`);
}

async function withModel<Result>(path: string, use: (model: Model) => Promise<Result>): Promise<Result> {
  const model = await openModel(path);
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}

/** Makes a tokenizer of the host's own class from a model's files, also from those of a GGUF file. */
async function tokenizerOf(host: HostLike, model: Model): Promise<HostTokenizer> {
  const { chatTemplate } = await model.loadText();
  const files = await exportedText(model);
  const json: object = JSON.parse(files.get("tokenizer.json") ?? "{}");
  const config: { readonly tokenizer_class?: string } = JSON.parse(files.get("tokenizer_config.json") ?? "{}");
  // The host's AutoTokenizer chooses its class in the same way.
  const own = insideOf(host)[(config.tokenizer_class ?? "PreTrainedTokenizer").replace(/Fast$/, "")];
  const TokenizerClass = isTokenizerClass(own) ? own : insideOf(host).PreTrainedTokenizer;
  const tokenizer = new TokenizerClass(json, config);
  if (generationOf(host) === "xenova" && chatTemplate) renderWith(tokenizer, chatTemplate);
  return tokenizer;
}

function isTokenizerClass(value: unknown): value is HostInside["PreTrainedTokenizer"] {
  return typeof value === "function";
}

interface TemplateOptions {
  readonly chat_template?: string | null;
  readonly add_generation_prompt?: boolean;
  readonly tokenize?: boolean;
  readonly padding?: boolean;
  readonly truncation?: boolean;
  readonly max_length?: number | null;
  readonly return_tensor?: boolean;
  readonly tokenizer_kwargs?: object;
  readonly [variable: string]: unknown;
}

/**
 * Makes a tokenizer render the model's chat template with our renderer: the older generation's Jinja fails at most of
 * today's templates. A template in the caller's options is left to the host.
 */
function renderWith(tokenizer: HostTokenizer, template: ChatTemplate): void {
  const original = tokenizer.apply_chat_template.bind(tokenizer);
  tokenizer.apply_chat_template = (messages, options: TemplateOptions = {}) => {
    if (options.chat_template) return original(messages, options);
    const {
      chat_template: _none,
      add_generation_prompt: addGenerationPrompt = false,
      tokenize = true,
      padding = false,
      truncation = false,
      max_length = null,
      return_tensor = true,
      tokenizer_kwargs = {},
      ...variables
    } = options;
    const text = template.render(messages, { addGenerationPrompt, ...variables });
    if (!tokenize) return text;
    const encoding = { add_special_tokens: false, padding, truncation, max_length, return_tensor, ...tokenizer_kwargs };
    return tokenizer(text, encoding).input_ids;
  };
}
