// Pipelines of encoders of both hosts through the engine, held against the hosts' own, on the same ONNX file.

import { createAutoClasses, createPipeline, type HostLike, register } from "@readme-moe/adapter";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { withOnnx, writeEncoder, writeHead } from "../support/encoder-models.ts";
import { findAnywhere, FP32, HOSTS, type HostName } from "../support/hosts.ts";
import { largestDifference } from "../support/running-model.ts";

interface FeatureTensor {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

interface Extractor {
  (texts: string | readonly string[], options?: object): Promise<FeatureTensor>;
  readonly model: object;
  dispose(): Promise<unknown>;
}

const TEXTS = ["dog", "green house, walking on paper", "a"];

const TOKENIZER_CONFIG = {
  tokenizer_class: "BertTokenizer",
  model_max_length: 160,
  pad_token: "[PAD]",
  cls_token: "[CLS]",
  sep_token: "[SEP]",
  unk_token: "[UNK]",
  mask_token: "[MASK]",
};

let folder: string;
beforeAll(async () => {
  findAnywhere();
  folder = await withOnnx(await writeEncoder("bert"), "bert");
});

type Pipeline = (task: string, path: string, options: object) => Promise<Extractor>;

async function extractors(name: HostName, options: object = {}): Promise<readonly [own: Extractor, hosts: Extractor]> {
  const host = HOSTS[name] as unknown as HostLike & { pipeline: Pipeline };
  const own = await (createPipeline(host) as unknown as Pipeline)("feature-extraction", folder, {
    ...FP32,
    ...options,
  });
  const hosts = await host.pipeline("feature-extraction", folder, FP32);
  onTestFinished(async () => void (await Promise.all([own.dispose(), hosts.dispose()])));
  return [own, hosts];
}

test("states keep their size where embeddings have another one", async () => {
  const path = await writeEncoder("embeddinggemma", { "tokenizer_config.json": TOKENIZER_CONFIG });
  const create = createPipeline(HOSTS.huggingface as unknown as HostLike) as unknown as Pipeline;
  const own = await create("feature-extraction", path, FP32);
  onTestFinished(async () => void (await own.dispose()));
  expect((await own(TEXTS)).dims).toEqual([3, expect.any(Number), 64]);
});

test.for(["huggingface", "xenova"] as const)("vectors of %s are the host's, in its shapes", async (name) => {
  const [own, hosts] = await extractors(name);
  expect(own.model).toHaveProperty("engine");
  const pooled = [
    { pooling: "mean", normalize: true },
    { pooling: "mean" },
    { pooling: "cls", normalize: true },
    { pooling: "mean", normalize: true, quantize: true, precision: "binary" },
  ];
  for (const options of pooled) {
    const [actual, expected] = [await own(TEXTS, options), await hosts(TEXTS, options)];
    expect(actual.dims).toEqual(expected.dims);
    expect(actual.data.constructor).toBe(expected.data.constructor);
    expect(largestDifference(actual.data, expected.data)).toBeLessThan(1e-4);
  }
  for (const text of TEXTS) {
    const [actual, expected] = [await own(text), await hosts(text)];
    expect(actual.dims).toEqual(expected.dims);
    expect(largestDifference(actual.data, expected.data)).toBeLessThan(1e-4);
  }
  const [padded, plain] = [await own(TEXTS), await hosts(TEXTS)];
  expect(padded.dims).toEqual(plain.dims);
});

test("calls of many callers share steps and get their own vectors", async () => {
  const [own, hosts] = await extractors("huggingface");
  const options = { pooling: "mean", normalize: true };
  const results = await Promise.all(Array.from({ length: 40 }, (_, index) => own(TEXTS[index % 3]!, options)));
  for (const [index, text] of TEXTS.entries()) {
    const expected = await hosts(text, options);
    for (let call = index; call < results.length; call += 3) {
      expect(largestDifference(results[call]!.data, expected.data)).toBeLessThan(1e-4);
    }
  }
});

type Call = (...args: readonly unknown[]) => Promise<unknown>;
type Opened = Call & { readonly model: object; dispose(): Promise<unknown> };
type OpenPipeline = (task: string, path: string, options: object) => Promise<Opened>;

/** Calls of each task, in the options of the newer host. */
const CALLS: Readonly<Record<string, readonly (readonly unknown[])[]>> = {
  "text-classification": [
    ["dog runs"],
    ["dog runs", { top_k: 2 }],
    [TEXTS],
    [TEXTS, { top_k: 3 }],
    ["dog ".repeat(80), { top_k: 3 }],
  ],
  "token-classification": [
    [TEXTS[1], { ignore_labels: [] }],
    [TEXTS, { ignore_labels: ["neutral"] }],
  ],
  "zero-shot-classification": [
    ["a green dog", ["house", "paper", "walk"]],
    [TEXTS, ["house", "paper"], { multi_label: true, hypothesis_template: "green {} runs" }],
    ["dog", "house"],
  ],
  "fill-mask": [["green [MASK] runs"], [["[MASK]", "dog, [MASK] house"], { top_k: 2 }]],
};
const HEADS = { "token-classification": "tag", "fill-mask": "fill" } as const;

/** Writes a repository for transformers.js with the head of a task. */
async function repositoryOf(task: string, config: object = {}): Promise<string> {
  const head = task in HEADS ? HEADS[task as keyof typeof HEADS] : "classify";
  return withOnnx(await writeHead("bert", head, config), `bert-${head}`);
}

/** Compares results, whose probabilities differ by 0.0001 at most. */
function expectClose(actual: unknown, expected: unknown): void {
  const [ours, theirs] = [actual, expected].map((value) => {
    const numbers: number[] = [];
    const shape = JSON.stringify(value, (_, one: unknown) => {
      if (typeof one !== "number" || Number.isInteger(one)) return one;
      return `number ${numbers.push(one)}`;
    });
    return { numbers, shape };
  });
  expect(JSON.parse(ours!.shape)).toEqual(JSON.parse(theirs!.shape));
  expect(largestDifference(ours!.numbers, theirs!.numbers)).toBeLessThan(1e-4);
}

const hostCases = (["huggingface", "xenova"] as const).flatMap((name) =>
  Object.keys(CALLS).flatMap((task) => [false, true].map((isRegistered) => [name, task, isRegistered] as const)),
);

test.for(hostCases)("%s: %s gives the host's results, registered: %s", async ([name, task, isRegistered]) => {
  const path = await repositoryOf(task);
  const host = HOSTS[name] as unknown as HostLike & { readonly pipeline: OpenPipeline };
  const hosts = await host.pipeline(task, path, FP32);
  const open = isRegistered ? host.pipeline : (createPipeline(host) as unknown as OpenPipeline);
  const unregister = isRegistered ? register(host, { engine: "readme-moe" }) : () => undefined;
  const own = await open(task, path, FP32).finally(unregister);
  onTestFinished(async () => void (await Promise.all([own.dispose(), hosts.dispose()])));
  expect(own.model).toHaveProperty("engine");
  expect(hosts.model).not.toHaveProperty("engine");
  for (const [given, ...others] of CALLS[task] ?? []) {
    const args = [given, ...others.map((one) => (name === "xenova" ? olderOptions(one) : one))];
    const [actual, expected] = await Promise.all([own(...args), hosts(...args)]);
    expectClose(actual, expected);
  }
  if (task === "fill-mask") await expect(own("no mask")).rejects.toThrow(/Mask token/);
});

/** Gives `top_k` the older host's name. */
function olderOptions(given: unknown): unknown {
  if (typeof given !== "object" || given === null || !("top_k" in given)) return given;
  const { top_k: topk, ...others } = given;
  return { ...others, topk };
}

test("a text may have several labels, and aliases of tasks are the engine's", async () => {
  const path = await repositoryOf("text-classification", { problem_type: "multi_label_classification" });
  const host = HOSTS.huggingface as unknown as HostLike & { readonly pipeline: OpenPipeline };
  const own = await (createPipeline(host) as unknown as OpenPipeline)("sentiment-analysis", path, FP32);
  const hosts = await host.pipeline("sentiment-analysis", path, FP32);
  onTestFinished(async () => void (await Promise.all([own.dispose(), hosts.dispose()])));
  expect(own.model).toHaveProperty("engine");
  expectClose(await own("dog runs", { top_k: 3 }), await hosts("dog runs", { top_k: 3 }));
});

interface HostModel {
  (inputs: unknown): Promise<Readonly<Record<string, FeatureTensor>>>;
  dispose(): Promise<unknown>;
}
interface Loader<Loaded> {
  from_pretrained(path: string, options?: object): Promise<Loaded>;
}
type Tokenizer = (texts: readonly string[], options: object) => unknown;

const CLASSES = [
  ["AutoModel", "last_hidden_state", "feature-extraction"],
  ["AutoModelForSequenceClassification", "logits", "text-classification"],
  ["AutoModelForTokenClassification", "logits", "token-classification"],
  ["AutoModelForMaskedLM", "logits", "fill-mask"],
] as const;

test.for((["huggingface", "xenova"] as const).flatMap((name) => CLASSES.map((one) => [name, ...one] as const)))(
  "%s: pairs of texts give %s the host's %s",
  async ([name, className, output, task]) => {
    const path = task === "feature-extraction" ? folder : await repositoryOf(task);
    const host = HOSTS[name] as unknown as HostLike & Readonly<Record<string, Loader<HostModel>>>;
    const own = createAutoClasses(host) as unknown as Readonly<Record<string, Loader<HostModel>>>;
    const tokenizer = (await host.AutoTokenizer.from_pretrained(path)) as Tokenizer;
    const inputs = tokenizer(TEXTS, { text_pair: ["runs", "walk on", "green paper, dog"], padding: true });
    const models = await Promise.all([own, host].map((classes) => classes[className]!.from_pretrained(path, FP32)));
    onTestFinished(async () => void (await Promise.all(models.map((model) => model.dispose()))));
    expect(models.map((model) => "engine" in model)).toEqual([true, false]);
    const [actual, expected] = await Promise.all(models.map(async (model) => (await model(inputs))[output]!));
    expect(actual!.dims).toEqual(expected!.dims);
    const { attention_mask: mask } = inputs as { readonly attention_mask: { readonly data: BigInt64Array } };
    const size = expected!.data.length / mask.data.length;
    // States and logits of padding, which the engine does not compute, are 0.
    const isPadding = (index: number) => className !== CLASSES[1][0] && mask.data[Math.floor(index / size)] === 0n;
    const wanted = expected!.data.map((value, index) => (isPadding(index) ? 0 : value));
    expect(largestDifference(actual!.data, wanted)).toBeLessThan(1e-4);
  },
);

test("models that do not give what a task needs are left to the host, and other tasks are not run", async () => {
  const host = HOSTS.huggingface as unknown as HostLike & { readonly pipeline: OpenPipeline };
  const pipeline = createPipeline(host) as unknown as OpenPipeline;
  const required = { ...FP32, engine: "readme-moe" };
  await expect(pipeline("fill-mask", folder, required)).rejects.toThrow(/is no encoder that gives masks/);
  await expect(pipeline("question-answering", folder, required)).rejects.toThrow(/one of text-generation, feature-ex/);
  await expect(pipeline("toString", folder, required)).rejects.toThrow(/Expected `task` to be one of/);
  const hosts = await pipeline("text-classification", folder, FP32);
  onTestFinished(async () => void (await hosts.dispose()));
  expect(hosts.model).not.toHaveProperty("engine");
});
