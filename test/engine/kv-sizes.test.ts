import { kvSizes, resolveEngineOptions } from "@readme-moe/engine";
import { kvBytesPerToken } from "@readme-moe/kernel";
import { openModel, type ModelConfig } from "@readme-moe/model";
import { beforeAll, describe, expect, test } from "vitest";
import { POCKET } from "../support/pocket.ts";

let config: ModelConfig;
beforeAll(async () => {
  const model = await openModel(POCKET);
  ({ config } = model);
  await model.close();
});

const sizes = (options: Parameters<typeof resolveEngineOptions>[0], changes: Partial<ModelConfig> = {}) => ({
  fp32: kvSizes(resolveEngineOptions(options), { ...config, ...changes }),
  fp16: kvSizes(resolveEngineOptions(options), { ...config, ...changes }, "fp16"),
});

describe("float16 holds twice as many tokens as float32 in the same bytes,", () => {
  test("if the bytes are given", () => {
    const bytesPerToken = kvBytesPerToken(config);
    const { fp32, fp16 } = sizes({ kvCacheBytes: 640 * bytesPerToken });
    expect([fp32.capacityTokens, fp16.capacityTokens]).toEqual([640, 1280]);
    expect([fp32.prefixCacheBytes, fp16.prefixCacheBytes]).toEqual(Array(2).fill(160 * bytesPerToken));
  });

  test("and in the default of 512 MiB", () => {
    const { fp32, fp16 } = sizes({ maxNumSeqs: 1024 }, { numLayers: 64, contextTokens: 4096 });
    expect(fp32.capacityTokens * kvBytesPerToken({ ...config, numLayers: 64 })).toBeCloseTo(512 << 20, -7);
    expect(fp16.capacityTokens / fp32.capacityTokens).toBeCloseTo(2, 2);
  });
});

test("int8 takes a byte for each number, and four for the scale of each key and value", () => {
  const { numLayers, numKvHeads, headSize } = config;
  expect(kvBytesPerToken(config, "int8")).toBe(2 * numLayers * numKvHeads * (headSize + 4));
  const kvCacheBytes = 128 * kvBytesPerToken(config, "int8");
  expect(kvSizes(resolveEngineOptions({ kvCacheBytes }), config, "int8").capacityTokens).toBe(128);
});

test("one sequence of 4,096 tokens fits, however large its tokens are", () => {
  const { fp32, fp16 } = sizes({}, { numLayers: 2000, contextTokens: 8192 });
  expect([fp32.capacityTokens, fp16.capacityTokens]).toEqual([4096, 4096]);
  expect(fp16.contextTokens).toBe(4096);
});

test("fewer than 64 tokens are rejected, and half the bytes are enough in float16", () => {
  const kvCacheBytes = 40 * kvBytesPerToken(config);
  expect(() => kvSizes(resolveEngineOptions({ kvCacheBytes }), config)).toThrow(/`kvCacheBytes` to be at least/);
  expect(kvSizes(resolveEngineOptions({ kvCacheBytes }), config, "fp16").capacityTokens).toBe(64);
});
