// Models for measuring speed.

import { expect, test } from "vitest";
import { randomModel } from "../../bench/random-model.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

test("no two tensors are equal", async () => {
  const { layers } = randomModel(TINY_SHAPE, 3, 48).weights;
  const weights = layers.flatMap(({ attention: { query, key, value, output }, experts }) =>
    [query, key, value, output, ...experts.flatMap(({ gate, up, down }) => [gate, up, down])].map(
      ({ weight }) => weight,
    ),
  );
  const contents = await Promise.all(
    weights.map(async ({ store, name }) => Buffer.from((await store.readFloats(name)).buffer).toString("base64")),
  );
  // Two layers of query, key, value and output, and three experts' gate, up and down.
  expect(new Set(contents).size).toBe(2 * (4 + 3 * 3));
});

test("a tensor is the same whether it is read whole or by rows", async () => {
  const { weights } = randomModel(TINY_SHAPE, 3, 48);
  const { store, name, shape } = weights.head;
  const whole = await store.readFloats(name);
  const [numRows = 0, width = 0] = shape;
  expect(await store.readFloats(name, { from: 3, to: numRows })).toEqual(whole.subarray(3 * width));
});
