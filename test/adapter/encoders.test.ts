// Feature extraction of both hosts through the engine, held against the hosts' own, on the same ONNX file.

import { copyFile, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createPipeline, type HostLike } from "@readme-moe/adapter";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { writeEncoder } from "../support/encoder-models.ts";
import { findAnywhere, FP32, HOSTS, type HostName } from "../support/hosts.ts";
import { fixture } from "../support/fixtures.ts";
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

let folder: string;
beforeAll(async () => {
  findAnywhere();
  const roles = {
    pad_token: "[PAD]",
    cls_token: "[CLS]",
    sep_token: "[SEP]",
    unk_token: "[UNK]",
    mask_token: "[MASK]",
  };
  const config = { tokenizer_class: "BertTokenizer", model_max_length: 160, ...roles };
  folder = await writeEncoder("bert", { "tokenizer_config.json": config });
  await rm(join(folder, "model.safetensors"));
  await mkdir(join(folder, "onnx"));
  await copyFile(fixture("encoders-onnx/bert.onnx"), join(folder, "onnx", "model.onnx"));
});

async function extractors(name: HostName, options: object = {}): Promise<readonly [own: Extractor, hosts: Extractor]> {
  type Pipeline = (task: string, path: string, options: object) => Promise<Extractor>;
  const host = HOSTS[name] as unknown as HostLike & { pipeline: Pipeline };
  const own = await (createPipeline(host) as unknown as Pipeline)("feature-extraction", folder, {
    ...FP32,
    ...options,
  });
  const hosts = await host.pipeline("feature-extraction", folder, FP32);
  onTestFinished(async () => void (await Promise.all([own.dispose(), hosts.dispose()])));
  return [own, hosts];
}

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

test("a decoder, a pair of texts and another task are not run by the engine", async () => {
  const [own] = await extractors("huggingface");
  const zeros = { dims: [1, 2], data: BigInt64Array.of(5n, 6n) };
  const pair = { input_ids: zeros, token_type_ids: { dims: [1, 2], data: BigInt64Array.of(0n, 1n) } };
  const model = own.model as unknown as (inputs: object) => Promise<unknown>;
  await expect(model(pair)).rejects.toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
  const pipeline = createPipeline(HOSTS.huggingface as unknown as HostLike) as unknown as (
    ...args: unknown[]
  ) => Promise<unknown>;
  const asked = pipeline("fill-mask", folder, { engine: "readme-moe" });
  await expect(asked).rejects.toThrow(/one of text-generation, feature-extraction/);
});
