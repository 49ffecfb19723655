// The effect of calibrated weights in fewer bits on a model.

import { expect, test } from "vitest";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { promptLogits, runningModel } from "../support/running-model.ts";

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

function relativeError(actual: Float32Array, expected: Float32Array): number {
  let [error, size] = [0, 0];
  expected.forEach((value, i) => {
    error += (value - (actual[i] as number)) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(error / size);
}
