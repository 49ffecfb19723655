// The effect of calibrated weights in fewer bits on a model.

import { join } from "node:path";
import { calibrateModel, type CalibrationTokens } from "@readme-moe/kernel";
import { openModel, type Model } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import { describe, expect, onTestFinished, test } from "vitest";
import { CALIBRATION_TEXTS, calibrationOf } from "../../packages/engine/src/calibration.ts";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe, type TinyOptions } from "../support/tiny-read-me.ts";

const TOKENS = Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % 90);

test("changes a model's output only by rounding", async () => {
  // If a channel were divided and not multiplied again, a random model's logits would change completely.
  const logitsOf = TOKENS.map((_, index) => index);
  for (const family of fixtureNames("families")) {
    await using floats = await runningModel(fixture(family));
    const expected = (await promptLogits(floats, TOKENS, logitsOf)).fullLogits;
    for (const [precision, bound] of [
      ["int8", 0.08],
      ["int4", 0.5],
    ] as const) {
      await using fewer = await runningModel(fixture(family), undefined, precision);
      const actual = (await promptLogits(fewer, TOKENS, logitsOf)).fullLogits;
      expect(relativeError(actual, expected), `${family} ${precision}`).toBeLessThan(bound);
    }
  }
});

test("changes most positions of a mixture only by rounding", async () => {
  // Where two experts are about equally probable, a rounded logit of the router chooses the other one.
  const logitsOf = TOKENS.map((_, index) => index);
  for (const mixture of fixtureNames("mixtures")) {
    await using floats = await runningModel(fixture(mixture));
    const expected = (await promptLogits(floats, TOKENS, logitsOf)).fullLogits;
    const { vocabSize } = floats.model.config;
    for (const [precision, bound] of [
      ["int8", 0.08],
      ["int4", 0.5],
    ] as const) {
      await using fewer = await runningModel(fixture(mixture), undefined, precision);
      const actual = (await promptLogits(fewer, TOKENS, logitsOf)).fullLogits;
      const rowOf = (logits: Float32Array, row: number) => logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      const errors = TOKENS.map((_, row) => relativeError(rowOf(actual, row), rowOf(expected, row)));
      const median = errors.toSorted((a, b) => a - b)[TOKENS.length / 2];
      expect(median, `${mixture} ${precision}`).toBeLessThan(bound);
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

const options = { threads: 1 };

/** Opens a tiny Read-ME model until the test ends. */
async function openTiny(tiny: TinyOptions): Promise<Model> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path, tiny);
  const model = await openModel(path);
  onTestFinished(() => model.close());
  return model;
}

/** Lists products of both layers whose inputs are measured. */
const PRODUCTS = [0, 1].flatMap((layer) =>
  ["attention.qkv", "attention.output", "ffn.0", "ffn.1", "ffn.2.down"].map((name) => `layers.${layer}.${name}`),
);

describe("calibration", () => {
  test("is not needed in float32, and depends on the tokens alone", async () => {
    const [one, other] = [await openTiny({ seed: 1 }), await openTiny({ seed: 2 })];
    expect(await calibrationOf(one, "fp32", options)).toBeUndefined();
    const ofOne = await calibrationOf(one, "int8", options);
    expect(ofOne?.fingerprint).toMatch(/^[0-9a-f]{16}$/);
    expect((await calibrationOf(other, "int8", options))?.fingerprint).toBe(ofOne?.fingerprint);
    expect((await calibrationOf(one, "int4", options))?.fingerprint).not.toBe(ofOne?.fingerprint);
    const larger = await openTiny({ vocabSize: 97 });
    expect((await calibrationOf(larger, "int8", options))?.fingerprint).not.toBe(ofOne?.fingerprint);
  });

  test.each([
    [true, 256],
    [true, 1000],
    [false, 100],
  ])("in four bits runs typical text with the experts of the router: %s, %i tokens", async (hasRouter, context) => {
    const model = await openTiny({ ...WITH_TOKENIZER, hasRouter, config: { max_position_embeddings: context } });
    const length = Math.min(context, 256);
    const { tokenizer } = await model.loadText();
    const ids = CALIBRATION_TEXTS.flatMap((text) => Array.from(tokenizer.encode(text)));
    const sequences: CalibrationTokens[] = [];
    const router = hasRouter ? await openRouter(model, "router", options) : undefined;
    for (let from = 0; from < ids.length; from += length) {
      const tokenIds = ids.slice(from, from + length);
      const [route] = (await router?.route([{ state: router.start(), tokenIds }])) ?? [];
      sequences.push({ tokenIds, experts: route?.experts ?? tokenIds.map((_, index) => index % 3) });
    }
    await router?.dispose();
    const expected = calibrateModel(model, async () => sequences, options);
    const actual = (await calibrationOf(model, "int4", options))?.statistics;
    for (const product of PRODUCTS) {
      expect(await actual?.inputSquares(product), product).toEqual(await expected.inputSquares(product));
    }
  });

  test("in eight bits runs tokens of the whole vocabulary, each with another expert than the one before", async () => {
    const model = await openTiny({});
    const ids = Array.from({ length: 4 * 64 }, (_, index) => (index * 7919) % 96);
    const sequences = [0, 64, 128, 192].map((from) => {
      const tokenIds = ids.slice(from, from + 64);
      return { tokenIds, experts: tokenIds.map((_, index) => index % 3) };
    });
    const expected = calibrateModel(model, async () => sequences, options);
    const actual = (await calibrationOf(model, "int8", options))?.statistics;
    for (const product of PRODUCTS) {
      expect(await actual?.inputSquares(product), product).toEqual(await expected.inputSquares(product));
    }
  });
});
