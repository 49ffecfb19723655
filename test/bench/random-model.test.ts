// Models that only speed is measured of.

import { decoderGraph } from "@readme-moe/engine";
import { expect, test } from "vitest";
import { randomModel } from "../../bench/random-model.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

const NOT_READ = {
  inputMax: () => Promise.reject(new Error("not read")),
  inputSquares: () => Promise.reject(new Error("not read")),
};

test("no two weights of a graph are alike: the runtime would keep and read them once", async () => {
  const { constants } = decoderGraph(randomModel(TINY_SHAPE, 3, 48), "fp32", NOT_READ);
  const weights = constants.filter(({ name }) => name.endsWith(".weight"));
  const contents = await Promise.all(weights.map(async ({ bytes }) => Buffer.from(await bytes()).toString("base64")));
  // A layer's query, key and value are one, its output, three experts' gate with up, and down; and the head.
  expect(weights.length).toBeGreaterThan(2 * (2 + 3 * 2));
  expect(new Set(contents).size).toBe(contents.length);
});

test("a tensor is the same whether it is read whole or by rows", async () => {
  const { weights } = randomModel(TINY_SHAPE, 3, 48);
  const { store, name, shape } = weights.head;
  const whole = await store.readFloats(name);
  const [numRows = 0, width = 0] = shape;
  expect(await store.readFloats(name, { from: 3, to: numRows })).toEqual(whole.subarray(3 * width));
});
