// The memory that `list --available` shows, beside what `plan` counts from a model's tensors.

import { expect, test } from "vitest";
import { KNOWN_MODELS, type KnownModel, memoryBytesOf, openModel } from "@readme-moe/model";
import { placementsOf } from "../../packages/readme-moe/src/plan/placements.ts";
import { POCKET } from "../support/pocket.ts";

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
