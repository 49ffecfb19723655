import { checkHost, generationOf, insideOf, type HostLike, type HostLoadOptions } from "./host.ts";
import { loadModel } from "./load/load-model.ts";
import { locate } from "./load/locate.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";

/** The host's own function, which also takes this package's options. */
export type ReadMePipeline<Host extends HostLike> = Host["pipeline"] & {
  (
    task: "text-generation",
    model?: string | null,
    options?: HostLoadOptions & AdapterOptions,
  ): Promise<InstanceType<Host["TextGenerationPipeline"]>>;
};

/**
 * Makes a `pipeline` that loads text generation through the engine when the host could not run the model, or
 * `engine: "readme-moe"` asks for it. Other tasks and models are left to the host, which is not changed.
 *
 * @throws {TypeError} when `transformers` is not the module of one of the two hosts
 */
export function createPipeline<Host extends HostLike>(transformers: Host): ReadMePipeline<Host> {
  checkHost(transformers);
  const { env, TextGenerationPipeline } = insideOf(transformers);
  const isNewer = generationOf(transformers) === "huggingface";
  const pipeline = async (
    task: string,
    id: string | null = null,
    { engine, engineOptions, ...options }: HostLoadOptions & AdapterOptions = {},
  ): Promise<unknown> => {
    const adapter = checkAdapterOptions({ engine, engineOptions });
    const { progress_callback: onEvent } = options;
    const watched = isNewer && onEvent ? { ...options, progress_callback: withTotals(onEvent) } : options;
    const isOurTask = task === "text-generation" && typeof id === "string";
    const path = isOurTask ? await locate({ id, env, options: watched, adapter }) : undefined;
    if (path === undefined) return insideOf(transformers).pipeline(task, id, options);
    const { model, tokenizer } = await loadModel(transformers, path, options, adapter);
    onEvent?.({ status: "ready", task, model: id });
    return new TextGenerationPipeline({ task, model, tokenizer });
  };
  return pipeline as unknown as ReadMePipeline<Host>;
}

type OnEvent = NonNullable<HostLoadOptions["progress_callback"]>;

interface FileProgress {
  readonly status?: string;
  readonly name?: string;
  readonly file?: string;
  readonly loaded?: number;
  readonly total?: number;
}

/** Adds a `progress_total` of all files before each `progress` of a file, as the newer host's `pipeline` does. */
function withTotals(onEvent: OnEvent): OnEvent {
  const files: Record<string, { readonly loaded: number; readonly total: number }> = {};
  return (event) => {
    const { status, name, file, loaded = 0, total = 0 }: FileProgress = event;
    if (status === "progress" && file !== undefined) {
      files[file] = { loaded, total };
      const all = Object.values(files).reduce(
        (sum, one) => ({ loaded: sum.loaded + one.loaded, total: sum.total + one.total }),
        { loaded: 0, total: 0 },
      );
      const progress = all.total > 0 ? (100 * all.loaded) / all.total : 0;
      onEvent({ status: "progress_total", name, progress, ...all, files: { ...files } });
    }
    onEvent(event);
  };
}
