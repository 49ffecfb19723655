import {
  checkHost,
  generationOf,
  type HostInside,
  insideOf,
  type HostLike,
  type HostLoadOptions,
  type LoaderClass,
} from "./host.ts";
import { loadModel, loadTokenizer } from "./load/load-model.ts";
import type { Located, LocateRequest } from "./load/locate.ts";
import { tryEngine } from "./load/try-engine.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";

/** The host's classes that load models and tokenizers. */
export type AutoClasses<Host extends HostLike> = Pick<Host, "AutoModelForCausalLM" | "AutoTokenizer">;

/**
 * Makes subclasses of the host's `AutoModelForCausalLM` and `AutoTokenizer` that load models through the engine, as
 * `createPipeline` does. `from_pretrained` also takes this package's options. The host is not changed.
 *
 * @throws {TypeError} when `transformers` is not the module of one of the two hosts
 */
export function createAutoClasses<Host extends HostLike>(transformers: Host): AutoClasses<Host> {
  checkHost(transformers);
  const host = insideOf(transformers);
  const split = splitterOf(transformers, host);

  const HostModels: LoaderClass = host.AutoModelForCausalLM;
  const HostTokenizers: LoaderClass = host.AutoTokenizer;

  class AutoModelForCausalLM extends HostModels {
    static override async from_pretrained(
      id: string,
      options: HostLoadOptions & AdapterOptions = {},
    ): Promise<unknown> {
      const { request, own, adapter } = split(id, options, "model");
      const load = async (located: Located): Promise<object> =>
        (await loadModel(transformers, located, own, adapter)).model;
      return (await tryEngine(request, load)) ?? HostModels.from_pretrained(id, own);
    }
  }

  class AutoTokenizer extends HostTokenizers {
    static override async from_pretrained(
      id: string,
      options: HostLoadOptions & AdapterOptions = {},
    ): Promise<unknown> {
      const { request, own } = split(id, options, "tokenizer");
      const loaded = await tryEngine(request, ({ path }) => loadTokenizer(transformers, path));
      return loaded ?? HostTokenizers.from_pretrained(id, own);
    }
  }

  return { AutoModelForCausalLM, AutoTokenizer };
}

interface Split {
  readonly request: LocateRequest;
  /** The host's own options. */
  readonly own: HostLoadOptions;
  readonly adapter: AdapterOptions;
}

function splitterOf(transformers: HostLike, { env }: HostInside) {
  const generation = generationOf(transformers);
  return (
    id: string,
    { engine, engineOptions, ...own }: HostLoadOptions & AdapterOptions,
    what: LocateRequest["what"],
  ): Split => {
    const adapter = checkAdapterOptions({ engine, engineOptions });
    return { request: { id, generation, env, options: own, adapter, what }, own, adapter };
  };
}
