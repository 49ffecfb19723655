// The memory that `list --available` shows, beside what `plan` counts from a model's tensors.

import { expect, test } from "vitest";
import { KNOWN_MODELS, type KnownModel, memoryBytesOf, openModel } from "@readme-moe/model";
import { placementsOf } from "../../packages/readme-moe/src/plan/placements.ts";
import { realEncoder } from "../../tools/models/real-models.ts";
import { POCKET } from "../support/pocket.ts";

const minilm = realEncoder();

test("the estimate for an encoder's shape is within 6 % of what its tensors and its engine need", async ({ skip }) => {
  if (minilm === undefined) skip("needs `npm run fetch:models -- minilm`");
  const model = await openModel(minilm!);
  const known = KNOWN_MODELS.find(({ name }) => name === "all-minilm:22m")!;
  const { numLayers, hiddenSize, vocabSize, intermediateSize: ffnSize } = model.config;
  expect(known.shape).toMatchObject({ numLayers, hiddenSize, vocabSize, ffnSize });
  const rows = placementsOf(model, { sequences: 1, contextTokens: 256 });
  expect(rows.map(({ precision }) => precision)).toEqual(["int8", "fp32"]);
  for (const { precision, weightBytes, otherBytes, other } of rows) {
    const ratio = memoryBytesOf(known, precision) / (weightBytes + otherBytes - other.step);
    expect(Math.abs(ratio - 1), `${precision}: ${ratio}`).toBeLessThan(0.06);
  }
  await model.close();
});

test("the estimate for a model's shape is within 6 % of what its tensors need", async () => {
  const model = await openModel(POCKET);
  const { config } = model;
  const isTied = model.weights.head === model.weights.embedding;
  const shape: KnownModel["shape"] = {
    hiddenSize: config.hiddenSize,
    numLayers: config.numLayers,
    ffnSize: config.intermediateSize,
    numHeads: config.numHeads,
    numKvHeads: config.numKvHeads,
    headSize: config.headSize,
    vocabSize: config.vocabSize,
    isTied,
  };
  const known = { ...(KNOWN_MODELS[0] as KnownModel), shape };
  for (const { precision, weightBytes, otherBytes } of placementsOf(model, { sequences: 1, contextTokens: 2048 })) {
    const ratio = memoryBytesOf(known, precision) / (weightBytes + otherBytes);
    expect(Math.abs(ratio - 1), `${precision}: ${ratio}`).toBeLessThan(0.06);
  }
  await model.close();
});
