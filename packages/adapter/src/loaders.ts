// The host's loaders in our form: `pipeline`, and the classes that load models and tokenizers.

import { describeValue } from "@readme-moe/core";
import { ENCODER_CLASSES, type EncoderClass, type EncoderResult } from "./encoder-class.ts";
import { checkHost, generationOf, type HostLike, type HostLoadOptions, insideOf, type LoaderClass } from "./host.ts";
import { type LoadedModel, loadEncoder, loadModel, loadTokenizer } from "./load/load-model.ts";
import type { Located, LocateRequest } from "./load/locate.ts";
import { tryEngine } from "./load/try-engine.ts";
import { type AdapterOptions, checkAdapterOptions } from "./options.ts";

/** The host's own function, which also takes this package's options. */
export type ReadMePipeline<Host extends HostLike> = Host["pipeline"] & {
  (
    task: "text-generation",
    model?: string | null,
    options?: HostLoadOptions & AdapterOptions,
  ): Promise<InstanceType<Host["TextGenerationPipeline"]>>;
};

const CLASSIFICATION = ["TextClassificationPipeline", "labels"] as const;
const TAGGING = ["TokenClassificationPipeline", "token labels"] as const;
const EXTRACTION = ["FeatureExtractionPipeline", "states"] as const;

/** Classes of the host by the tasks that the engine runs, and what their encoders give. */
const TASKS: Readonly<Record<string, readonly [pipeline: string, result?: EncoderResult]>> = {
  "text-generation": ["TextGenerationPipeline"],
  "feature-extraction": EXTRACTION,
  "text-classification": CLASSIFICATION,
  "token-classification": TAGGING,
  "zero-shot-classification": ["ZeroShotClassificationPipeline", "labels"],
  "fill-mask": ["FillMaskPipeline", "masks"],
  // The host's other names of these tasks.
  embeddings: EXTRACTION,
  "sentiment-analysis": CLASSIFICATION,
  ner: TAGGING,
};

/**
 * Makes a `pipeline` that loads text generation and the tasks of encoders through the engine: feature extraction,
 * classification of texts and tokens, with and without training, and masks. Other tasks, and models that the engine
 * cannot read, are left to the host, which is not changed.
 *
 * @throws {TypeError} when `transformers` is not the module of one of the two hosts
 */
export function createPipeline<Host extends HostLike>(transformers: Host): ReadMePipeline<Host> {
  checkHost(transformers);
  const split = splitterOf(transformers);
  const isNewer = generationOf(transformers) === "huggingface";
  const pipeline = async (
    task: string,
    id: string | null = null,
    options: HostLoadOptions & AdapterOptions = {},
  ): Promise<unknown> => {
    const { request, own, adapter } = split(id ?? "", options);
    const { progress_callback: onEvent } = own;
    const watched = isNewer && onEvent ? { ...own, progress_callback: withTotals(onEvent) } : own;
    const [name = "", result] = (Object.hasOwn(TASKS, task) && TASKS[task]) || [];
    const Pipeline = insideOf(transformers)[name];
    const isOurTask = typeof Pipeline === "function" && typeof id === "string";
    if (!isOurTask && adapter.engine === "readme-moe") {
      const tasks = Object.keys(TASKS).join(", ");
      throw new TypeError(`Expected \`task\` to be one of ${tasks} with a model's name, got ${describeValue(task)}`);
    }
    const load = (located: Located): Promise<LoadedModel> =>
      result
        ? loadEncoder(transformers, located, { options: own, adapter, result })
        : loadModel(transformers, located, own, adapter);
    const loaded = isOurTask ? await tryEngine({ ...request, options: watched }, load) : undefined;
    if (loaded === undefined) return insideOf(transformers).pipeline(task, id, own);
    const { model, tokenizer } = loaded;
    onEvent?.({ status: "ready", task, model: id });
    return new (Pipeline as new (parts: object) => object)({ task, model, tokenizer });
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

/** The host's classes that load models and tokenizers. */
export type AutoClasses<Host extends HostLike> = Pick<
  Host,
  | "AutoModel"
  | "AutoModelForCausalLM"
  | "AutoModelForMaskedLM"
  | "AutoModelForSequenceClassification"
  | "AutoModelForTokenClassification"
  | "AutoTokenizer"
>;

/**
 * Makes subclasses of the host's `AutoTokenizer`, `AutoModelForCausalLM`, and those for encoders, that load models
 * through the engine, as `createPipeline` does. `from_pretrained` also takes this package's options. The host is not
 * changed.
 *
 * @throws {TypeError} when `transformers` is not the module of one of the two hosts
 */
export function createAutoClasses<Host extends HostLike>(transformers: Host): AutoClasses<Host> {
  checkHost(transformers);
  const host = insideOf(transformers);
  const split = splitterOf(transformers);
  type Load = (located: Located, own: HostLoadOptions, adapter: AdapterOptions) => Promise<object>;
  const loading = (HostLoader: LoaderClass, what: "model" | "tokenizer", load: Load): LoaderClass =>
    class extends HostLoader {
      static override async from_pretrained(
        id: string,
        options: HostLoadOptions & AdapterOptions = {},
      ): Promise<unknown> {
        const { request, own, adapter } = split(id, options, what);
        const loaded = await tryEngine(request, (located) => load(located, own, adapter));
        return loaded ?? HostLoader.from_pretrained(id, own);
      }
    };
  const encoder = (name: EncoderClass): LoaderClass =>
    loading(host[name] as LoaderClass, "model", async (located, options, adapter) => {
      const asked = { options, adapter, result: ENCODER_CLASSES[name] };
      return (await loadEncoder(transformers, located, asked)).model;
    });
  return {
    AutoModel: encoder("AutoModel"),
    AutoModelForMaskedLM: encoder("AutoModelForMaskedLM"),
    AutoModelForSequenceClassification: encoder("AutoModelForSequenceClassification"),
    AutoModelForTokenClassification: encoder("AutoModelForTokenClassification"),
    AutoModelForCausalLM: loading(
      host.AutoModelForCausalLM,
      "model",
      async (located, own, adapter) => (await loadModel(transformers, located, own, adapter)).model,
    ),
    AutoTokenizer: loading(host.AutoTokenizer, "tokenizer", ({ path }) => loadTokenizer(transformers, path)),
  };
}

interface Split {
  readonly request: LocateRequest;
  readonly own: HostLoadOptions;
  readonly adapter: AdapterOptions;
}

/** Makes a function that tells this package's options from the host's. */
function splitterOf(transformers: HostLike) {
  const generation = generationOf(transformers);
  const { env } = insideOf(transformers);
  return (
    id: string,
    { engine, engineOptions, ...own }: HostLoadOptions & AdapterOptions,
    what?: LocateRequest["what"],
  ): Split => {
    const adapter = checkAdapterOptions({ engine, engineOptions });
    return { request: { id, generation, env, options: own, adapter, what }, own, adapter };
  };
}
