import { checkHost, generationOf, insideOf, type HostLike, type HostLoadOptions } from "./host/host.ts";
import { loadModel } from "./load/load-model.ts";
import { locate } from "./load/locate.ts";
import { withTotals } from "./load/progress-total.ts";
import { checkAdapterOptions, type AdapterOptions } from "./options.ts";

/** The host's own function, which takes this package's options, too. */
export type ReadMePipeline<Host extends HostLike> = Host["pipeline"] & {
  (
    task: "text-generation",
    model?: string | null,
    options?: HostLoadOptions & AdapterOptions,
  ): Promise<InstanceType<Host["TextGenerationPipeline"]>>;
};

/**
 * The host's `pipeline`, which loads text generation through the engine where the host could not run the model, or
 * `engine: "readme-moe"` asks for it; other tasks and models are the host's. Nothing of the host is changed.
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
    const path =
      task === "text-generation" && typeof id === "string" ? await locate(id, env, watched, adapter) : undefined;
    if (path === undefined) return transformers.pipeline(task as never, id as never, options as never);
    const { model, tokenizer } = await loadModel(transformers, path, options, adapter);
    onEvent?.({ status: "ready", task, model: id });
    return new TextGenerationPipeline({ task, model, tokenizer });
  };
  return pipeline as unknown as ReadMePipeline<Host>;
}
