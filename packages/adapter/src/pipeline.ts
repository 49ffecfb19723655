import { describeValue } from "@readme-moe/core";
import { checkHost, generationOf, insideOf, type HostLike, type HostLoadOptions } from "./host.ts";
import { loadModel } from "./load/load-model.ts";
import { tryEngine } from "./load/try-engine.ts";
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
 * Makes a `pipeline` that loads text generation through the engine. Other tasks, and models that the engine cannot
 * read, are left to the host, which is not changed.
 *
 * @throws {TypeError} when `transformers` is not the module of one of the two hosts
 */
export function createPipeline<Host extends HostLike>(transformers: Host): ReadMePipeline<Host> {
  checkHost(transformers);
  const { env, TextGenerationPipeline } = insideOf(transformers);
  const generation = generationOf(transformers);
  const isNewer = generation === "huggingface";
  const pipeline = async (
    task: string,
    id: string | null = null,
    { engine, engineOptions, ...options }: HostLoadOptions & AdapterOptions = {},
  ): Promise<unknown> => {
    const adapter = checkAdapterOptions({ engine, engineOptions });
    const { progress_callback: onEvent } = options;
    const watched = isNewer && onEvent ? { ...options, progress_callback: withTotals(onEvent) } : options;
    const isOurTask = task === "text-generation" && typeof id === "string";
    if (!isOurTask && engine === "readme-moe") {
      throw new TypeError(`Expected \`task\` to be "text-generation" with a model's name, got ${describeValue(task)}`);
    }
    const loaded = isOurTask
      ? await tryEngine({ id, generation, env, options: watched, adapter }, (located) =>
          loadModel(transformers, located, options, adapter),
        )
      : undefined;
    if (loaded === undefined) return insideOf(transformers).pipeline(task, id, options);
    const { model, tokenizer } = loaded;
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
