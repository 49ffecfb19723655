import type { Shape } from "../../bench/random-model.ts";

/** Shape of models with random weights that are made and run in a second. */
export const TINY_SHAPE: Shape = {
  hiddenSize: 64,
  ffnSize: 96,
  numLayers: 2,
  numHeads: 2,
  numKvHeads: 1,
  headSize: 32,
  vocabSize: 256,
};
