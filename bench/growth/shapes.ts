// Shapes of models for comparing step times. Weights are random: time does not depend on them.

import { LLAMA_3B, SMOLLM2_135M, SMOLLM2_360M, type Shape } from "../random-model.ts";

/** Shapes by name, from the smallest to the largest. */
export const SHAPES: Readonly<Record<string, Shape>> = {
  "20m": {
    hiddenSize: 256,
    ffnSize: 1024,
    numLayers: 8,
    numHeads: 4,
    numKvHeads: 2,
    headSize: 64,
    vocabSize: 32_768,
  },
  "135m": SMOLLM2_135M,
  "360m": SMOLLM2_360M,
  /** Llama 3.2 1B. */
  "1b": {
    hiddenSize: 2048,
    ffnSize: 8192,
    numLayers: 16,
    numHeads: 32,
    numKvHeads: 8,
    headSize: 64,
    vocabSize: 128_256,
  },
  "3b": LLAMA_3B,
};

/** A few layers of SmolLM2, so that 64 experts fit into memory. */
export const FEW_LAYERS: Shape = { ...SMOLLM2_135M, numLayers: 6, vocabSize: 8192 };

/** Smallest shape, for quick runs. */
export const TINY: Shape = { ...FEW_LAYERS, hiddenSize: 128, ffnSize: 256, numLayers: 2, numHeads: 2, numKvHeads: 1 };

/** Counts the weights of a dense model with a tied head, without norms. */
export function parametersOf(shape: Shape): number {
  const { hiddenSize, ffnSize, numLayers, numHeads, numKvHeads, headSize, vocabSize } = shape;
  const attention = 2 * hiddenSize * headSize * (numHeads + numKvHeads);
  return vocabSize * hiddenSize + numLayers * (attention + 3 * hiddenSize * ffnSize);
}
