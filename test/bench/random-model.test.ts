// Models that only speed is measured of.

import { decoderGraph } from "@readme-moe/engine";
import { expect, test } from "vitest";
import { randomModel } from "../../bench/random-model.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

test("no two weights of a graph are alike: the runtime would keep and read them once", async () => {
  const { constants } = decoderGraph(randomModel(TINY_SHAPE, 3, 48));
  const weights = constants.filter(({ name }) => name.endsWith(".weight"));
  const byContent = new Map<string, string[]>();
  for (const { name, bytes } of weights) {
    const content = Buffer.from(await bytes()).toString("base64");
    byContent.set(content, [...(byContent.get(content) ?? []), name]);
  }
  // A layer's query, key and value are one, its output, three experts' gate with up, and down.
  expect(weights.length).toBe(2 * (2 + 3 * 2));
  expect([...byContent.values()].filter(({ length }) => length > 1)).toEqual([]);
});

test("a tensor is the same whether it is read whole or by rows", async () => {
  const { weights } = randomModel(TINY_SHAPE, 3, 48);
  const { store, name, shape } = weights.head;
  const whole = await store.readFloats(name);
  const [numRows = 0, width = 0] = shape;
  expect(await store.readFloats(name, { from: 3, to: numRows })).toEqual(whole.subarray(3 * width));
});
