// Makes the host's own loaders load some models through the engine.

import { checkHost, insideOf, type HostInside, type HostLike, type HostLoader, type HostLoadOptions } from "./host.ts";
import { loadConfig, loadModel, loadTokenizer } from "./load/load-model.ts";
import { locate, type LocateRequest } from "./load/locate.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";

const UNREGISTER = Symbol.for("@readme-moe/adapter.unregister");

/**
 * Makes the host's own `pipeline("text-generation", …)`, `AutoModelForCausalLM`, `AutoTokenizer` and `AutoConfig` load
 * models through the engine that the host cannot run: Read-ME models, folders with safetensors, GGUF files, and such
 * repositories of the hub. Everything else works as before. Registering again replaces the options.
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
  const located = locations(host, adapter);
  const undo = [
    wrap(AutoConfig, locations(host, adapter, "config"), async (path) => new PretrainedConfig(await loadConfig(path))),
    wrap(AutoTokenizer, located, (path) => loadTokenizer(transformers, path)),
    wrap(AutoModelForCausalLM, located, async (path, loadOptions) => {
      const { model, tokenizer } = await loadModel(transformers, path, loadOptions, adapter);
      return Object.assign(model, { tokenizer });
    }),
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

type Locations = (id: string, options: HostLoadOptions) => Promise<string | undefined>;

/**
 * Makes a `locate` that searches once for calls at the same time: a pipeline loads config, tokenizer and model at once.
 */
function locations(host: HostInside, adapter: AdapterOptions, what?: LocateRequest["what"]): Locations {
  const pending = new Map<string, Promise<string | undefined>>();
  return (id, options) => {
    const { env } = host;
    const { cache_dir: cacheFolder, revision, local_files_only: isLocal } = options;
    const key = JSON.stringify([id, cacheFolder ?? env.cacheDir, revision ?? "main", isLocal ?? false]);
    const known = pending.get(key);
    if (known) return known;
    const found = locate({ id, env, options, adapter, what }).finally(() => pending.delete(key));
    pending.set(key, found);
    return found;
  };
}

/** Makes a host's class load located models with `load`. @returns a function that undoes it */
function wrap(
  loader: HostLoader,
  located: Locations,
  load: (path: string, options: HostLoadOptions) => Promise<unknown>,
): () => void {
  const isOwn = Object.hasOwn(loader, "from_pretrained");
  const original = loader.from_pretrained;
  loader.from_pretrained = async function (this: unknown, id, options = {}) {
    const path = typeof id === "string" ? await located(id, options) : undefined;
    return path === undefined ? original.call(this, id, options) : load(path, options);
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
