// Steps of larger models by their shapes: a few layers with random weights are measured, the rest is computed.

import { LLAMA_3B, SMOLLM2_135M, SMOLLM2_360M, type Shape } from "../random-model.ts";

/** Shapes of well-known models; experts have half the width. */
export const SHAPES: Readonly<Record<string, Shape>> = {
  tiny: { hiddenSize: 128, ffnSize: 512, numLayers: 6, numHeads: 2, numKvHeads: 1, headSize: 64, vocabSize: 1024 },
  "135m": SMOLLM2_135M,
  "360m": SMOLLM2_360M,
  // TinyLlama-1.1B
  "1b": {
    hiddenSize: 2048,
    ffnSize: 5632,
    numLayers: 22,
    numHeads: 32,
    numKvHeads: 4,
    headSize: 64,
    vocabSize: 32_000,
  },
  "3b": LLAMA_3B,
};

/** Numbers of measured layers; the difference gives the time of a layer. */
export const MEASURED_LAYERS = [1, 3] as const;

/**
 * Computes a step of all layers from steps of some: each layer takes the same time, and the rest is constant. NaN when
 * more layers took no longer, which happens on a busy machine.
 */
export function allLayersMs(measuredMs: readonly [fewMs: number, manyMs: number], numLayers: number): number {
  const [few, many] = MEASURED_LAYERS;
  const layerMs = (measuredMs[1] - measuredMs[0]) / (many - few);
  return layerMs > 0 ? measuredMs[0] + (numLayers - few) * layerMs : NaN;
}
