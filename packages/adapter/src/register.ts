// Makes the host's own loaders load some models through the engine.

import { ENCODER_CLASSES } from "./encoder-class.ts";
import {
  checkHost,
  generationOf,
  insideOf,
  type HostInside,
  type HostLike,
  type HostLoader,
  type HostLoadOptions,
} from "./host.ts";
import { loadConfig, loadEncoder, loadModel, loadTokenizer } from "./load/load-model.ts";
import type { Located, LocateRequest } from "./load/locate.ts";
import { tryEngine } from "./load/try-engine.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";

const UNREGISTER = Symbol.for("@readme-moe/adapter.unregister");

/**
 * Makes the host's own `pipeline` of text generation and of encoders' tasks, and its classes `AutoModelForCausalLM`,
 * `AutoTokenizer`, `AutoConfig` and those for encoders (`AutoModel`, …), load models through the engine: folders and
 * repositories of the hub with ONNX files, Read-ME models, safetensors and GGUF files. Everything else works as before.
 * Registering again replaces the options.
 *
 * @param transformers - the module of `@huggingface/transformers` (3.8 or newer) or `@xenova/transformers` (2.17)
 * @returns a function that undoes it
 * @throws {TypeError} when `transformers` is no such module, or an option is wrong
 */
export function register(transformers: HostLike, options: AdapterOptions = {}): () => void {
  checkHost(transformers);
  const adapter = checkAdapterOptions(options);
  const host = insideOf(transformers);
  const { AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig } = host;
  AutoModelForCausalLM[UNREGISTER]?.();
  const generation = generationOf(transformers);
  const requestOf: RequestOf = (id, own, what) => ({ id, generation, env: host.env, options: own, adapter, what });
  const undo = [
    wrap(AutoConfig, requestOf, "config", async ({ path }) => new PretrainedConfig(await loadConfig(path))),
    wrap(AutoTokenizer, requestOf, "tokenizer", ({ path }) => loadTokenizer(transformers, path)),
    wrap(AutoModelForCausalLM, requestOf, "model", async (located, loadOptions) => {
      const { model, tokenizer } = await loadModel(transformers, located, loadOptions, adapter);
      return Object.assign(model, { tokenizer });
    }),
    ...Object.entries(ENCODER_CLASSES).map(([name, result]) =>
      wrap(host[name] as HostLoader, requestOf, "model", async (located, loadOptions) => {
        const asked = { options: loadOptions, adapter, result };
        const { model, tokenizer } = await loadEncoder(transformers, located, asked);
        return Object.assign(model, { tokenizer });
      }),
    ),
    fillTokenizer(host),
  ];
  const unregister = (): void => {
    if (AutoModelForCausalLM[UNREGISTER] !== unregister) return;
    for (const one of undo) one();
    delete AutoModelForCausalLM[UNREGISTER];
  };
  Object.defineProperty(AutoModelForCausalLM, UNREGISTER, { value: unregister, configurable: true });
  return unregister;
}

type RequestOf = (id: string, options: HostLoadOptions, what: LocateRequest["what"]) => LocateRequest;

/** Makes a host's class load models of the engine with `load`. @returns a function that undoes it */
function wrap(
  loader: HostLoader,
  requestOf: RequestOf,
  what: LocateRequest["what"],
  load: (located: Located, options: HostLoadOptions) => Promise<unknown>,
): () => void {
  const isOwn = Object.hasOwn(loader, "from_pretrained");
  const original = loader.from_pretrained;
  loader.from_pretrained = async function (this: unknown, id, options = {}) {
    const loadHere = (located: Located): Promise<unknown> => load(located, options);
    const loaded = typeof id === "string" ? await tryEngine(requestOf(id, options, what), loadHere) : undefined;
    return loaded ?? original.call(this, id, options);
  };
  return () => {
    if (isOwn) loader.from_pretrained = original;
    else Reflect.deleteProperty(loader, "from_pretrained");
  };
}

/**
 * Gives a pipeline without a tokenizer the tokenizer of its model. The newer generation's `pipeline` loads a tokenizer
 * only if the model's folder has a tokenizer_config.json, which a GGUF file does not have beside it.
 *
 * @returns a function that undoes it; existing pipelines keep their tokenizers
 */
function fillTokenizer({ TextGenerationPipeline: { prototype } }: HostInside): () => void {
  Object.defineProperty(prototype, "tokenizer", {
    configurable: true,
    // The host's constructor sets it last, after the model.
    set(this: { readonly model?: { readonly tokenizer?: unknown } }, given: unknown) {
      const value = given ?? this.model?.tokenizer ?? given;
      Object.defineProperty(this, "tokenizer", { value, writable: true, enumerable: true, configurable: true });
    },
  });
  return () => void Reflect.deleteProperty(prototype, "tokenizer");
}
