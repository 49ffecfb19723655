// Options of an engine: defaults, bounds, and messages that name option, expectation and value.

import { ReadMeEngine, resolveEngineOptions, type EngineOptions } from "@readme-moe/engine";
import type { ModelConfig } from "@readme-moe/model";
import { expect, test } from "vitest";
import { optionsFor } from "../../packages/engine/src/memory-sizes.ts";

/** Any engine is opened with these: they do not depend on the model. */
const DEFAULTS = {
  isolation: "process",
  hungMs: 60_000,
  precision: undefined,
  threads: undefined,
  kernel: undefined,
  kvPrecision: undefined,
  cacheFolder: undefined,
  expert: undefined,
  maxNumSeqs: 32,
  maxNumBatchedSeqs: 32,
  maxNumBatchedTokens: undefined,
  chunkTokens: 128,
  memoryBytes: undefined,
  kvCacheBytes: undefined,
  prefixCacheBytes: undefined,
  prefixDiskBytes: 0,
  prefixDiskScope: "",
  savedPromptsFolder: undefined,
  savedPromptsBytes: 2 ** 30,
  expertCacheBytes: undefined,
  expertCachePolicy: "belady",
  controlTokensInMessages: "text",
  speculation: true,
  draft: undefined,
  samplingDefaults: "model",
  maxNumRequests: 1024,
  scheduler: "cost-aware",
  prefillShare: undefined,
  maxDelayMs: undefined,
  maxStepMs: undefined,
};

test("absent options have their defaults", () => {
  expect(resolveEngineOptions({})).toEqual(DEFAULTS);
  expect(resolveEngineOptions({ maxNumSeqs: 7 })).toEqual({ ...DEFAULTS, maxNumSeqs: 7, maxNumBatchedSeqs: 7 });
  const streamed = { expertCacheBytes: 5 };
  expect(resolveEngineOptions(streamed)).toEqual({ ...DEFAULTS, ...streamed });
});

function stepSizes(config: ModelConfig, options: EngineOptions): readonly number[] {
  const { promptTokens, maxNumBatchedTokens } = optionsFor(config, resolveEngineOptions(options), 1000);
  return [promptTokens, maxNumBatchedTokens];
}

test("a step runs the more chunks of a prompt, the more of a mixture's experts are read for it", () => {
  const [mixture, dense] = [{ mixture: {} }, {}].map((own) => ({ contextTokens: 4096, ...own }) as ModelConfig);
  expect(stepSizes(mixture!, {})).toEqual([128, 512]);
  expect(stepSizes(mixture!, { expertCacheBytes: 1000 })).toEqual([128, 512]);
  expect(stepSizes(mixture!, { expertCacheBytes: 900 })).toEqual([512, 512]);
  expect(stepSizes(mixture!, { expertCacheBytes: 750 })).toEqual([1024, 1024]);
  for (const expertCacheBytes of [500, 100]) expect(stepSizes(mixture!, { expertCacheBytes })).toEqual([2048, 2048]);
  expect(stepSizes(mixture!, { expertCacheBytes: 500, maxNumBatchedTokens: 300 })).toEqual([256, 300]);
  expect(stepSizes(mixture!, { expertCacheBytes: 500, chunkTokens: 4096 })).toEqual([4096, 4096]);
  expect(stepSizes(dense!, { expertCacheBytes: 500 })).toEqual([128, 512]);
  expect(stepSizes(dense!, { chunkTokens: 1024 })).toEqual([1024, 1024]);
});

test.each<EngineOptions>([
  { isolation: "thread" },
  { isolation: "process" },
  { precision: "int4" },
  { precision: "int8" },
  { precision: "fp32", expertCacheBytes: 1 },
  { threads: 1 },
  { threads: 1024 },
  { kernel: "wasm" },
  { kernel: "native" },
  { kvPrecision: "fp16" },
  { kvPrecision: "fp32" },
  { kvPrecision: "int8" },
  { cacheFolder: "somewhere" },
  { expert: 3 },
  { expert: "law" },
  { maxNumSeqs: 1, maxNumBatchedSeqs: 1 },
  { maxNumSeqs: 1024, maxNumBatchedSeqs: 1024 },
  { maxNumBatchedSeqs: 32 },
  { maxNumBatchedTokens: 128 },
  { maxNumBatchedTokens: 65_536 },
  { chunkTokens: 64, maxNumBatchedTokens: 64 },
  { chunkTokens: 4096, maxNumBatchedTokens: 4096 },
  { memoryBytes: 1 },
  { kvCacheBytes: 1 },
  { prefixCacheBytes: 0 },
  { prefixDiskBytes: 0 },
  { prefixDiskBytes: 4e9, prefixDiskScope: "a server" },
  { expertCachePolicy: "lru", expertCacheBytes: 1, precision: "int8" },
  { samplingDefaults: "none" },
  { controlTokensInMessages: "control" },
  { controlTokensInMessages: "text" },
  { maxNumRequests: 1 },
  { speculation: false },
  { speculation: true, draftHead: "head" },
  { draftHead: "none" },
])("%o is taken as it is", (options) => {
  expect(resolveEngineOptions(options)).toEqual({ ...DEFAULTS, ...options });
});

test.each<[object, string]>([
  [{ threadz: 1 }, "Unknown option `threadz` of the engine, did you mean `threads`?"],
  [{ isolation: "vm" }, '`isolation` to be one of "process", "thread", got `"vm"`'],
  [{ precision: "fp16" }, '`precision` to be one of "fp32", "int8", "int4", "file", got `"fp16"`'],
  [{ threads: 0 }, "`threads`"],
  [{ threads: 1025 }, "`threads`"],
  [{ threads: 1.5 }, "`threads`"],
  [{ kernel: "gpu" }, '`kernel` to be one of "native", "wasm", got `"gpu"`'],
  [{ kvPrecision: "int4" }, '`kvPrecision` to be one of "fp32", "fp16", "int8", got `"int4"`'],
  [{ cacheFolder: 3 }, "`cacheFolder` to name a folder, got `3`"],
  [{ speculation: "on" }, '`speculation` to be true or false, got `"on"`'],
  [{ speculation: null }, "`speculation` to be true or false, got `null`"],
  [{ draftHead: "" }, '`draftHead` to name a folder, or none, got `""`'],
  [{ draftHead: 3 }, "`draftHead` to name a folder, or none, got `3`"],
  [{ draftHead: "small", speculation: false }, "`draftHead` with `speculation` only, got it with `speculation: false`"],
  [{ maxNumSeqs: 0 }, "`maxNumSeqs`"],
  [{ maxNumSeqs: 1025 }, "`maxNumSeqs`"],
  [{ maxNumBatchedSeqs: 0 }, "`maxNumBatchedSeqs`"],
  [{ maxNumSeqs: 4, maxNumBatchedSeqs: 5 }, "`maxNumBatchedSeqs`"],
  [{ maxNumBatchedTokens: 127 }, "`maxNumBatchedTokens`"],
  [{ maxNumBatchedTokens: 65_537 }, "`maxNumBatchedTokens`"],
  [{ chunkTokens: 63 }, "`chunkTokens`"],
  [{ chunkTokens: 96 }, "`chunkTokens` to be a multiple of 64, got `96`"],
  [{ chunkTokens: 4160 }, "`chunkTokens`"],
  [{ memoryBytes: 0 }, "`memoryBytes`"],
  [{ kvCacheBytes: 0 }, "`kvCacheBytes`"],
  [{ prefixCacheBytes: -1 }, "`prefixCacheBytes`"],
  [{ prefixDiskBytes: -1 }, "`prefixDiskBytes`"],
  [{ prefixDiskScope: 3 }, "`prefixDiskScope`"],
  [{ expertCacheBytes: 0 }, "`expertCacheBytes`"],
  [{ expertCachePolicy: "lru" }, "`expertCachePolicy` with `expertCacheBytes` only; all experts are in memory without"],
  [{ expertCachePolicy: "mru", expertCacheBytes: 1 }, '`expertCachePolicy` to be one of "belady", "lru"'],
  [{ expertCachePolicy: () => 0, expertCacheBytes: 1 }, "`expertCachePolicy` to be a name or `{ module, export }`"],
  [{ controlTokensInMessages: "drop" }, '`controlTokensInMessages` to be one of "text", "control"'],
  [{ maxNumRequests: 0 }, "`maxNumRequests`"],
])("%o is refused before anything is opened", async (options, message) => {
  expect(() => resolveEngineOptions(options)).toThrow(message);
  await expect(ReadMeEngine.open("nowhere", options)).rejects.toThrow(message);
});
