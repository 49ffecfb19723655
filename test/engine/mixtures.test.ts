// Mixtures in the engine: random shapes against plain loops, the same bits in any batch, and requests with prefix cache
// and drafts.

import { join } from "node:path";
import type { GenerateRequest } from "@readme-moe/core";
import { KernelRunner, mixtureLayout, openExperts, ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { describeModel } from "@readme-moe/kernel";
import { openLora, openModel, type Precision } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { mergedModel } from "../oracles/merged-model.ts";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { complete, type Completed } from "../support/complete.ts";
import * as fc from "../support/fast-check.ts";
import { kvFor } from "../support/greedy.ts";
import { writeModelGguf } from "../support/gguf/convert-model.ts";
import { inRandomSteps } from "../support/in-random-steps.ts";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { type MixtureShape, TINY_MIXTURE, writeRandomMixture } from "../support/random-mixture.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyAdapter } from "../support/tiny-adapter.ts";

const shapes: fc.Arbitrary<MixtureShape> = fc
  .record({
    modelType: fc.constantFrom("mixtral", "qwen3_moe", "olmoe", "granitemoe"),
    seed: fc.nat(2 ** 31 - 1),
    vocabSize: fc.integer({ min: 20, max: 90 }),
    hiddenSize: fc.constantFrom(16, 24, 64, 72),
    headSize: fc.constantFrom(4, 8, 16),
    numKvHeads: fc.integer({ min: 1, max: 2 }),
    headsPerKey: fc.integer({ min: 1, max: 3 }),
    numLayers: fc.integer({ min: 1, max: 3 }),
    numExperts: fc.integer({ min: 1, max: 17 }),
    expertsPerToken: fc.integer({ min: 1, max: 6 }),
    expertSize: fc.integer({ min: 3, max: 70 }),
    normalizesWeights: fc.boolean(),
    isDense: fc.boolean(),
  })
  .map(({ headsPerKey, isDense, expertsPerToken, ...shape }) => ({
    ...shape,
    numHeads: shape.numKvHeads * headsPerKey,
    expertsPerToken: Math.min(expertsPerToken, shape.numExperts),
    denseLayers: isDense && shape.modelType === "qwen3_moe" && shape.numLayers > 1 ? [0] : [],
  }));

test("random shapes have the logits of plain loops at every position", async () => {
  const all = Array.from({ length: 30 }, (_, index) => index);
  await fc.assert(
    fc.asyncProperty(shapes, async (shape) => {
      await using running = await runningModel(await mixtureFolder(shape), undefined, "fp32", await temporaryFolder());
      const ids = all.map((index) => (index * 7 + shape.seed) % shape.vocabSize);
      const { fullLogits } = await promptLogits(running, ids, all);
      const expected = await plainLogits(running.model, ids, new Uint16Array(ids.length));
      const plain = expected.flatMap((row) => Array.from(row));
      expect(largestDifference(fullLogits, plain)).toBeLessThan(1e-3);
    }),
    { numRuns: 12 },
  );
});

test("a GGUF file in 8 bits runs its own blocks", async () => {
  const shape = { hiddenSize: 64, expertSize: 64, numExperts: 7, expertsPerToken: 3 } as const;
  const path = join(await temporaryFolder(), "model.gguf");
  const folder = await mixtureFolder({ ...shape, modelType: "granitemoe" });
  await withModel(folder, (model) => writeModelGguf(model, path, "Q8_0"));
  const ids = Array.from({ length: 24 }, (_, index) => (index * 11 + 3) % TINY_MIXTURE.vocabSize);
  for (const [precision, bound] of [
    ["fp32", 1e-4],
    // Inputs of products are rounded, and weights are not.
    ["int4", 0.02],
  ] as const) {
    await using running = await runningModel(path, undefined, precision, await temporaryFolder());
    const { layers } = describeModel(running.model, precision);
    const formats = layers.flatMap(({ mixture }) => mixture?.experts.map(({ down }) => down.format));
    expect(new Set(formats)).toEqual(new Set([precision === "fp32" ? "float" : "Q8_0"]));
    const { fullLogits } = await promptLogits(running, ids);
    const expected = (await plainLogits(running.model, ids, new Uint16Array(ids.length))).at(-1)!;
    const size = Math.sqrt(expected.reduce((sum, logit) => sum + logit * logit, 0) / expected.length);
    expect(largestDifference(fullLogits, expected)).toBeLessThan(3 * bound * size);
  }
});

describe.each(["fp32", "int8", "int4"] as const)("in %s", (precision: Precision) => {
  test("a token has the same bits alone, in any batch and chunk, with any threads and in WebAssembly", async () => {
    const path = await mixtureFolder({ hiddenSize: 64, numExperts: 9, expertsPerToken: 3, expertSize: 40 });
    const model = await openModel(path);
    const cacheFolder = await temporaryFolder();
    const random = seededRandom(9);
    const sequences = [1, 23, 40, 9, 31].map((length) => ({
      ids: Array.from({ length }, () => randomInteger(random, model.config.vocabSize)),
    }));
    const runnerWith = (options: object): Promise<KernelRunner> =>
      KernelRunner.open(model, { precision, cacheFolder, threads: 1, ...options });
    const first = await runnerWith({});
    const alone: (readonly Float32Array[])[] = [];
    for (const one of sequences) alone.push(...(await inRandomSteps(first, [one], () => 0.999)));
    await first.dispose();
    // float32 products round once in an addon and twice in WebAssembly.
    for (const options of [{}, { threads: 3 }, ...(precision === "fp32" ? [] : [{ kernel: "wasm" }])]) {
      const runner = await runnerWith(options);
      for (let time = 0; time < 3; time++) expect(await inRandomSteps(runner, sequences, random)).toEqual(alone);
      await runner.dispose();
    }
    await model.close();
  });
});

test("an adapter of attention and head has the logits of the merged model, beside rows without it", async () => {
  const model = await openModel(await mixtureFolder());
  const modules = ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}`);
  const adapter = { modules: [...modules, "lm_head"], size: 0.3 };
  const folder = await writeTinyAdapter(join(await temporaryFolder(), "legal"), model.config, adapter);
  const runner = await KernelRunner.open(model, { cacheFolder: await temporaryFolder(), threads: 2 });
  const set = await openExperts(runner, model, { legal: folder });
  const ids = [5, 61, 33, 8, 90, 2];
  const kv = kvFor(runner, 128);
  const results = await runner.forward(
    kv,
    [1, 0, 1].map((expert) => ({
      slot: kv.admit(ids.length)!,
      tokenIds: ids,
      experts: new Uint16Array(ids.length).fill(expert),
      logitsOf: [ids.length - 1],
      wantsFullLogits: true,
    })),
  );
  const [changed, plain, again] = results.map(({ fullLogits }) => fullLogits.slice());
  const expert = await openLora(folder, "legal", model);
  const logitsOf = async (base: typeof model): Promise<Float64Array> =>
    (await plainLogits(base, ids, new Uint16Array(ids.length))).at(-1)!;
  expect(largestDifference(changed!, await logitsOf(await mergedModel(model, expert)))).toBeLessThan(1e-3);
  expect(largestDifference(plain!, await logitsOf(model))).toBeLessThan(1e-3);
  expect(largestDifference(changed!, plain!)).toBeGreaterThan(0.1);
  expect(again).toEqual(changed);
  await expert.close();
  await set.close();
  await runner.dispose();
  await model.close();
});

describe("an engine that serves a mixture", () => {
  let folder: string;
  let path: string;
  const random = seededRandom(4);
  const common = Array.from({ length: 160 }, () => randomInteger(random, 4096));
  const requests = Array.from({ length: 8 }, (_, index): GenerateRequest => ({
    prompt: [...common.slice(0, index % 2 === 0 ? 150 : 20 * index), ...common.slice(index, 2 * index + 1)],
    params: {
      maxTokens: 12 + index,
      logprobs: 3,
      ignoreEos: true,
      temperature: index % 3 === 0 ? 0 : 0.8,
      seed: index,
    },
  }));

  beforeAll(async () => {
    folder = await persistentFolder();
    path = join(folder, "mixture");
    const shape = { ...TINY_MIXTURE, modelType: "olmoe", vocabSize: 4096, numExperts: 8 } as const;
    await writeRandomMixture(path, shape, { hasTokenizer: true });
  });

  async function answers(options: OpenOptions, isTogether = true) {
    const engine = await ReadMeEngine.open(path, { threads: 2, isolation: "thread", precision: "int8", ...options });
    try {
      expect(engine.info.experts).toEqual(["mixture"]);
      const all: Completed[] = [];
      if (isTogether) all.push(...(await Promise.all(requests.map((request) => complete(engine, request)))));
      else for (const request of requests) all.push(await complete(engine, request));
      return { all, stats: await engine.stats() };
    } finally {
      await engine.dispose();
    }
  }

  const WITHOUT: OpenOptions = { prefixCacheBytes: 0, speculation: false };

  test("gives the same tokens alone and together, and from cached prefixes", async () => {
    const { all: alone } = await answers(WITHOUT, false);
    expect(new Set(alone.flatMap(({ ids }) => ids)).size).toBeGreaterThan(40);
    expect((await answers(WITHOUT)).all).toEqual(alone);
    expect((await answers({ ...WITHOUT, chunkTokens: 64, maxNumBatchedTokens: 64 })).all).toEqual(alone);
    const cached = await answers({ speculation: false }, false);
    expect(cached.all).toEqual(alone);
    expect(cached.stats.cachedTokens).toBeGreaterThan(200);
  });

  test("reads each expert once for the chunks of a prompt that run in a step", async () => {
    const model = await openModel(path);
    const { numExperts, layerBytes } = mixtureLayout(model, "int8");
    await model.close();
    const bytes = layerBytes.reduce((sum, own) => sum + numExperts * own, 0);
    const params = { maxTokens: 3, temperature: 0, logprobs: 3, ignoreEos: true } as const;
    const prompt = Array.from({ length: 480 }, () => randomInteger(random, 4096));
    const run = async (options: OpenOptions) => {
      const own = { isolation: "thread", precision: "int8", chunkTokens: 64, speculation: false } as const;
      await using engine = await ReadMeEngine.open(path, { threads: 2, ...own, ...options });
      const first = await complete(engine, { prompt, params });
      const { expertCache } = await engine.stats();
      const again = await complete(engine, { prompt: [...prompt, 7], params });
      return {
        first,
        again,
        bytesRead: expertCache?.bytesRead ?? 0,
        cachedTokens: (await engine.stats()).cachedTokens,
      };
    };
    const whole = await run({});
    const expertCacheBytes = Math.floor(bytes / 2);
    const chunks = await run({ expertCacheBytes, maxNumBatchedTokens: 64 });
    const together = await run({ expertCacheBytes });
    for (const one of [whole, chunks, together]) {
      expect({ ...one, bytesRead: 0 }).toEqual({ ...whole, bytesRead: 0 });
      expect(one.cachedTokens).toBe(480);
    }
    // All experts once, and those of the tokens behind the prompt.
    expect(together.bytesRead).toBeLessThan(1.5 * bytes);
    expect(chunks.bytesRead).toBeGreaterThan(1.5 * together.bytesRead);
  });

  test("gives the same tokens with drafts", async () => {
    const { all: alone } = await answers(WITHOUT, false);
    expect((await answers({ speculation: true })).all).toEqual(alone);
  });

  test("takes its only expert's name, and refuses others", async () => {
    const engine = await ReadMeEngine.open(path, { threads: 1, isolation: "thread", precision: "int8" });
    try {
      const request = { prompt: [3, 4, 5], params: { maxTokens: 2, temperature: 0, ignoreEos: true } };
      const plain = await complete(engine, request);
      expect((await complete(engine, { ...request, expert: "mixture" })).ids).toEqual(plain.ids);
      await expect(complete(engine, { ...request, expert: "law" })).rejects.toThrow(RangeError);
    } finally {
      await engine.dispose();
    }
  });
});
