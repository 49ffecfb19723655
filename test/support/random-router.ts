// Random small routers, in memory and as a model has them.

import type { LinearRefs, RouterConfig, RouterWeights } from "@readme-moe/model";
import * as fc from "./fast-check.ts";
import type { PlainLinear, PlainRouter } from "../oracles/plain-router.ts";
import { memoryLinear, memoryTensor } from "./kernel/memory-store.ts";
import { randomNormal, seededRandom } from "./random.ts";

export const ROUTER_CONTEXT_TOKENS = 700;

export const routerConfig: fc.Arbitrary<RouterConfig> = fc
  .record({
    vocabSize: fc.integer({ min: 2, max: 150 }),
    numExperts: fc.integer({ min: 1, max: 70 }),
    embeddingSize: fc.integer({ min: 3, max: 70 }),
    numHeads: fc.integer({ min: 1, max: 4 }),
    halfHead: fc.integer({ min: 1, max: 12 }),
    numLayers: fc.integer({ min: 1, max: 3 }),
    normalizer: fc.constantFrom(1, 2.5, 8),
    ropeTheta: fc.constantFrom(100, 10_000),
  })
  .map(({ halfHead, ...sizes }) => ({
    ...sizes,
    innerSize: 2 * halfHead * sizes.numHeads,
    contextTokens: ROUTER_CONTEXT_TOKENS,
  }));

/** A router, and its weights as they would be found in a model's files. */
export interface TestRouter {
  readonly plain: PlainRouter;
  readonly weights: RouterWeights;
}

export function randomRouter(config: RouterConfig, seed: number): TestRouter {
  const random = seededRandom(seed);
  const { vocabSize, numExperts, embeddingSize, innerSize, numLayers } = config;
  const floats = (length: number, scale: number, middle = 0): Float32Array =>
    Float32Array.from({ length }, () => middle + scale * randomNormal(random));
  const norm = () => {
    const scales = floats(embeddingSize, 0.3, 1);
    return [scales, memoryTensor(scales, [embeddingSize])] as const;
  };
  const linear = (numOut: number, numIn: number): readonly [PlainLinear, LinearRefs] => {
    const [weight, bias] = [floats(numOut * numIn, 1 / Math.sqrt(numIn)), floats(numOut, 0.3)];
    return [{ weight: rowsOf(weight, numIn), bias }, memoryLinear(weight, numIn, bias)];
  };
  const table = floats(vocabSize * embeddingSize, 1);
  const layers = Array.from({ length: numLayers }, () => ({
    inputNorm: norm(),
    query: linear(innerSize, embeddingSize),
    key: linear(innerSize, embeddingSize),
    value: linear(innerSize, embeddingSize),
    output: linear(embeddingSize, innerSize),
    postAttentionNorm: norm(),
    expand: linear(innerSize, embeddingSize),
    contract: linear(embeddingSize, innerSize),
  }));
  const [finalNorm, head] = [norm(), linear(numExperts, embeddingSize)];
  return {
    plain: {
      config,
      embedding: rowsOf(table, embeddingSize),
      layers: layers.map((layer) => sideOf(layer, 0)) as unknown as PlainRouter["layers"],
      finalNorm: finalNorm[0],
      head: head[0],
    },
    weights: {
      config,
      embedding: memoryTensor(table, [vocabSize, embeddingSize]),
      layers: layers.map((layer) => sideOf(layer, 1)) as unknown as RouterWeights["layers"],
      finalNorm: finalNorm[1],
      head: head[1],
    },
  };
}

/** One of the two that each part of a layer has. */
function sideOf(layer: Readonly<Record<string, readonly [unknown, unknown]>>, side: 0 | 1): Record<string, unknown> {
  return Object.fromEntries(Object.entries(layer).map(([name, both]) => [name, both[side]]));
}

function rowsOf(values: Float32Array, width: number): readonly Float32Array[] {
  return Array.from({ length: values.length / width }, (_, row) => values.subarray(row * width, (row + 1) * width));
}
