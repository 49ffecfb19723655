// Sizes of packed weights, against their shapes.

import { join } from "node:path";
import { expertLayout, weightSizes } from "@readme-moe/engine";
import { openModel, writeSafetensors, type Model } from "@readme-moe/model";
import { mkdir, writeFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { mixtureFolder, withModel } from "../support/mixture-folder.ts";
import { TINY_MIXTURE } from "../support/random-mixture.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { tinyContent, writeTinyReadMe, type TinyOptions } from "../support/tiny-read-me.ts";

const HIDDEN = 32;
const LAYERS = 2;

/** Rows are packed in panels of 64. */
const panels = (rows: number): number => 64 * Math.ceil(rows / 64);
/** Computes the bytes of a product's float32 weights. */
const float = (rows: number, columns: number, hasBias = false): number =>
  4 * panels(rows) * (columns + (hasBias ? 1 : 0));
/** Computes the bytes of a product's int8 weights, with a float32 scale for each row. */
const int8 = (rows: number, columns: number): number => panels(rows) * (columns + 4);
const feedForward = (size: number, hasBias = false): number =>
  size === 0 ? 0 : 2 * float(size, HIDDEN, hasBias) + float(HIDDEN, size, hasBias);
const norm = (size: number): number => 4 * panels(size);

async function openTiny(options: TinyOptions): Promise<Model> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path, options);
  return openModel(path);
}

test("a mixture has the bytes of its experts, and of its routers in float32", async () => {
  const shape = { ...TINY_MIXTURE, modelType: "qwen3_moe", expertSize: 32, denseLayers: [1] } as const;
  await withModel(await mixtureFolder(shape), async (model) => {
    const { numExperts, expertSize, numLayers } = shape;
    const expert = 2 * int8(expertSize, HIDDEN) + int8(HIDDEN, expertSize);
    const dense = 2 * int8(2 * expertSize, HIDDEN) + int8(HIDDEN, 2 * expertSize);
    const norms = numLayers * (2 * norm(HIDDEN) + 2 * norm(shape.headSize)) + norm(HIDDEN);
    expect(weightSizes(model, "int8")).toMatchObject({
      small: norms + 2 * float(numExperts, HIDDEN),
      shared: dense,
      experts: 2 * numExperts * expert,
      router: 0,
    });
  });
});

describe.each<TinyOptions>([
  { expertSizes: [32, 64], sharedSizes: [32, 0] },
  { numExperts: 5, vocabSize: 100, expertSizes: [24, 40], sharedSizes: [16, 72], hasBias: true },
])("a Read-ME model with %o", (options) => {
  const { numExperts = 3, vocabSize = 96, expertSizes = [], sharedSizes = [], hasBias = false } = options;
  const sumOf = (sizes: readonly number[]): number => sizes.reduce((sum, size) => sum + feedForward(size, hasBias), 0);

  test("has the bytes of its shapes in float32, by part", async () => {
    const model = await openTiny(options);
    const routerLayer = 6 * float(16, 16, true) + 2 * norm(16);
    expect(weightSizes(model, "fp32")).toEqual({
      embeddings: float(vocabSize, HIDDEN),
      head: 0,
      attention: LAYERS * (2 * float(32, HIDDEN) + 2 * float(16, HIDDEN)),
      small: LAYERS * 2 * norm(HIDDEN) + norm(HIDDEN),
      shared: sumOf(sharedSizes),
      experts: numExperts * sumOf(expertSizes),
      router: 4 * vocabSize * 16 + routerLayer + norm(16) + float(numExperts, 16, true),
    });
    const layerBytes = expertSizes.map((size) => feedForward(size, hasBias));
    expect(expertLayout(model, "fp32")).toEqual({ numExperts, layerBytes });
    await model.close();
  });

  test("has a third to a fifth of the experts' bytes in int8 and int4, and no router if it has none", async () => {
    const model = await openTiny({ ...options, hasRouter: false });
    const [whole, bytes, halves] = (["fp32", "int8", "int4"] as const).map((precision) =>
      weightSizes(model, precision),
    );
    expect(bytes?.attention).toBe(LAYERS * (2 * int8(32, HIDDEN) + 2 * int8(16, HIDDEN)));
    expect(bytes?.small).toBe(whole?.small);
    expect((bytes?.experts ?? 0) / (whole?.experts ?? 0)).toBeLessThan(0.36);
    expect((halves?.experts ?? 0) / (whole?.experts ?? 0)).toBeLessThan(0.3);
    expect([whole?.router, bytes?.router, halves?.router]).toEqual([0, 0, 0]);
    // The default is the precision that streamed experts have by default.
    expect(expertLayout(model)).toEqual(expertLayout(model, "int8"));
    const { numExperts: counted, layerBytes } = expertLayout(model);
    expect(counted * layerBytes.reduce((sum, size) => sum + size, 0)).toBe(bytes?.experts);
    await model.close();
  });
});

test("a dense model's whole FFN is shared, and counts as the layer of one expert", async () => {
  const path = join(await temporaryFolder(), "dense");
  await writeTinyDense(path, 1);
  const model = await openModel(path);
  expect(weightSizes(model, "fp32")).toMatchObject({ shared: 2 * feedForward(64), experts: 0, router: 0, head: 0 });
  expect(expertLayout(model, "fp32")).toEqual({ numExperts: 1, layerBytes: [feedForward(64), feedForward(64)] });
  await model.close();
});

test("a head of its own counts beside the embedding", async () => {
  const path = join(await temporaryFolder(), "untied");
  const { config, tensors } = tinyContent({ numExperts: 1, expertSizes: [64], sharedSizes: [0], hasRouter: false });
  const bytes = async (): Promise<Uint8Array> => new Uint8Array(4 * 96 * HIDDEN);
  const head = { name: "lm_head.weight", type: "F32", shape: [96, HIDDEN], bytes } as const;
  await mkdir(path, { recursive: true });
  await writeSafetensors(join(path, "model.safetensors"), [...tensors.backbone, ...(tensors.experts[0] ?? []), head]);
  await writeFile(join(path, "config.json"), JSON.stringify({ ...config, tie_word_embeddings: false }));
  const model = await openModel(path);
  expect(weightSizes(model, "fp32")).toMatchObject({ head: float(96, HIDDEN), embeddings: 4 * 96 * HIDDEN });
  await model.close();
});
