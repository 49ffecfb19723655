// The host's own loaders, taught to leave some models to the engine.

import { checkHost, insideOf, type HostLike, type HostLoadOptions, type HostTokenizer } from "./host/host.ts";
import { loadConfig, loadModel, loadTokenizer } from "./load/load-model.ts";
import { locate } from "./load/locate.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";
import { fillTokenizer } from "./tokenizer-of-model.ts";

const UNREGISTER = Symbol.for("@readme-moe/adapter.unregister");

type FromPretrained = (id: string, options?: HostLoadOptions) => Promise<unknown>;
type Loader = { from_pretrained: FromPretrained };

/**
 * From now on, the host's own `pipeline("text-generation", …)`, `AutoModelForCausalLM`, `AutoTokenizer` and `AutoConfig`
 * load through the engine what the host cannot run: Read-ME models, folders with safetensors, GGUF files, and such
 * repositories of the hub. Everything else goes on as before. Registering again replaces the options.
 *
 * @param transformers - the module of `@huggingface/transformers` (3.8 or newer) or `@xenova/transformers` (2.17)
 * @returns undoes it
 * @throws {TypeError} when `transformers` is no such module, or an option is wrong
 */
export function register(transformers: HostLike, options: AdapterOptions = {}): () => void {
  checkHost(transformers);
  const adapter = checkAdapterOptions(options);
  const marked = transformers.AutoModelForCausalLM as unknown as Record<symbol, (() => void) | undefined>;
  marked[UNREGISTER]?.();
  const host = transformers;
  const located = locations(host, adapter);
  const undo = [
    wrap(
      host.AutoConfig,
      locations(host, adapter, "config"),
      async (path) => new (insideOf(host).PretrainedConfig)(await loadConfig(path)),
    ),
    wrap(host.AutoTokenizer, located, (path) => loadTokenizer(host, path)),
    wrap(host.AutoModelForCausalLM, located, async (path, loadOptions) => {
      const { model, tokenizer } = await loadModel(host, path, loadOptions, adapter);
      return Object.assign(model, { tokenizer });
    }),
    fillTokenizer(host, (model) => (model as { readonly tokenizer?: HostTokenizer }).tokenizer),
  ];
  const unregister = (): void => {
    if (marked[UNREGISTER] !== unregister) return;
    for (const one of undo) one();
    delete marked[UNREGISTER];
  };
  Object.defineProperty(marked, UNREGISTER, { value: unregister, configurable: true });
  return unregister;
}

type Locations = (id: string, options: HostLoadOptions) => Promise<string | undefined>;

/** A pipeline asks for config, tokenizer and model at once: where they are is found once. */
function locations(host: HostLike, adapter: AdapterOptions, what: "model" | "config" = "model"): Locations {
  const pending = new Map<string, Promise<string | undefined>>();
  return (id, options) => {
    const { env } = insideOf(host);
    const { cache_dir: cacheFolder, revision, local_files_only: isLocal } = options;
    const key = JSON.stringify([id, cacheFolder ?? env.cacheDir, revision ?? "main", isLocal ?? false]);
    const known = pending.get(key);
    if (known) return known;
    const found = locate(id, env, options, adapter, what).finally(() => pending.delete(key));
    pending.set(key, found);
    return found;
  };
}

function wrap(
  target: object,
  located: Locations,
  load: (path: string, options: HostLoadOptions) => Promise<unknown>,
): () => void {
  const loader = target as Loader;
  const isOwn = Object.hasOwn(loader, "from_pretrained");
  const original = loader.from_pretrained;
  loader.from_pretrained = async function (this: unknown, id, options = {}) {
    const path = typeof id === "string" ? await located(id, options) : undefined;
    return path === undefined ? original.call(this, id, options) : load(path, options);
  };
  return () => {
    if (isOwn) loader.from_pretrained = original;
    else delete (loader as Partial<Loader>).from_pretrained;
  };
}
