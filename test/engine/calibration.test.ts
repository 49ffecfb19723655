// What products take in on typical text, and what weights in fewer bits make of it.

import { join } from "node:path";
import { calibrate, openModel, type Calibration } from "@readme-moe/model";
import { expect, test } from "vitest";
import { fixture } from "../support/fixtures.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const TOKENS = Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % 90);

const sequences = async () => [{ tokenIds: TOKENS, experts: TOKENS.map(() => 0) }];

async function maxima(calibration: Calibration, products: readonly string[]): Promise<Map<string, Float32Array>> {
  const all = new Map<string, Float32Array>();
  for (const product of products) all.set(product, await calibration.inputMax(product));
  return all;
}

test("is the same in whatever order layers are asked for", async () => {
  const model = await openModel(fixture("families/llama-tied"));
  const [inOrder, reversed] = [0, 1].map(() => calibrate(model, sequences, { statistic: "maxima", threads: 1 })) as [
    Calibration,
    Calibration,
  ];
  const products = Array.from({ length: model.config.numLayers }, (_, layer) => [
    `layers.${layer}.attention.qkv`,
    `layers.${layer}.ffn`,
  ]).flat();
  products.push("head");
  const expected = await maxima(inOrder, products);
  expect(Object.fromEntries(await maxima(reversed, products.toReversed()))).toEqual(Object.fromEntries(expected));
  for (const values of expected.values()) {
    expect(values.length).toBe(model.config.hiddenSize);
    expect(Math.min(...values)).toBeGreaterThan(0);
  }
  await expect(inOrder.inputMax("layers.99.ffn")).rejects.toThrow("layers.99.ffn");
  await model.close();
});

test("sums the squares of what every expert takes in, of one without tokens, too", async () => {
  const folder = join(await temporaryFolder(), "tiny");
  await writeTinyReadMe(folder);
  const model = await openModel(folder);
  const experts = TOKENS.map((_, i) => i % 2);
  const calibration = calibrate(model, async () => [{ tokenIds: TOKENS, experts }], {
    statistic: "squares",
    threads: 1,
  });
  for (const product of ["attention.qkv", "attention.output", "ffn.0.gate_up", "ffn.1.down", "ffn.2.gate_up"]) {
    const squares = await calibration.inputSquares(`layers.1.${product}`);
    expect(squares.every((value) => Number.isFinite(value) && value >= 0)).toBe(true);
    expect(Math.max(...squares)).toBeGreaterThan(0);
  }
  const [first, second] = [
    await calibration.inputSquares("layers.0.ffn.0.gate_up"),
    await calibration.inputSquares("layers.0.ffn.1.gate_up"),
  ];
  const all = await calibration.inputSquares("layers.0.ffn");
  all.forEach((sum, i) => expect((first[i] as number) + (second[i] as number)).toBeCloseTo(sum, 3));
  await model.close();
});

test("leaves a model's function as it was, but for rounding", async () => {
  // A channel that were divided and not multiplied again would leave nothing of a random model's logits.
  const logitsOf = TOKENS.map((_, index) => index);
  for (const family of ["llama-tied", "qwen2", "qwen3"]) {
    await using floats = await runningModel(fixture(`families/${family}`));
    const expected = (await promptLogits(floats, TOKENS, logitsOf)).fullLogits;
    for (const [precision, bound] of [
      ["int8", 0.08],
      ["int4", 0.5],
    ] as const) {
      await using fewer = await runningModel(fixture(`families/${family}`), undefined, precision);
      const actual = (await promptLogits(fewer, TOKENS, logitsOf)).fullLogits;
      expect(relativeError(actual, expected), `${family} ${precision}`).toBeLessThan(bound);
    }
  }
});

function relativeError(actual: Float32Array, expected: Float32Array): number {
  let [error, size] = [0, 0];
  expected.forEach((value, i) => {
    error += (value - (actual[i] as number)) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(error / size);
}
