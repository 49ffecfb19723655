// Sizes of random models.

import * as fc from "../fast-check.ts";
import { WEIGHT_FORMATS } from "./random-weights.ts";

/** Sizes of a model; everything else follows from `seed`. */
export interface ModelShape {
  readonly seed: number;
  readonly hiddenSize: number;
  readonly headSize: number;
  readonly numKvHeads: number;
  readonly ffnSize: number;
  /** 1 for dense models. */
  readonly numExperts: number;
  /** Inner size of experts that rows or routers choose. @default a random one below 71 */
  readonly expertSize?: number | undefined;
  readonly numLayers: number;
  readonly vocabSize: number;
  /** Outputs of the head. @default `vocabSize` */
  readonly numLogits?: number | undefined;
  /** Experts of layers with routers, and the share of these layers. @default none */
  readonly mixture?: MixtureShape | undefined;
  /** Share of layers with a recurrence in place of attention. @default 0 */
  readonly recurrentShare?: number | undefined;
  /** Positions of sequences, which sliding windows may cover. @default `MAX_POSITIONS` and short windows */
  readonly maxPositions?: number | undefined;
  /** Formats that products choose from, by index; those that do not fit a product's inputs become int8. */
  readonly formats: readonly number[];
}

/** Experts of each mixture of a model. */
interface MixtureShape {
  readonly share: number;
  readonly numExperts: number;
  /** At most; a mixture of fewer experts uses all. */
  readonly expertsPerToken: number;
}

const mixtureShape: fc.Arbitrary<MixtureShape> = fc.record({
  share: fc.constantFrom(0.5, 1),
  numExperts: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.constantFrom(16, 17, 60, 64)),
  expertsPerToken: fc.integer({ min: 1, max: 8 }),
});

const size = (min: number, max: number): fc.Arbitrary<number> =>
  fc.oneof(
    fc.integer({ min, max }),
    fc.integer({ min: Math.ceil(min / 32), max: Math.floor(max / 32) }).map((groups) => 32 * groups),
    fc.integer({ min: Math.ceil(min / 16), max: Math.floor(max / 16) }).map((halves) => 16 * halves),
  );

export const modelShape: fc.Arbitrary<ModelShape> = fc.record({
  seed: fc.nat(2 ** 31 - 1),
  hiddenSize: size(16, 96),
  headSize: fc.oneof(
    fc.integer({ min: 2, max: 20 }).map((half) => 2 * half),
    fc.constantFrom(8, 16, 32, 64, 80),
  ),
  numKvHeads: fc.integer({ min: 1, max: 3 }),
  ffnSize: size(10, 150),
  numExperts: fc.constantFrom(1, 1, 2, 3, 7),
  numLayers: fc.integer({ min: 1, max: 3 }),
  vocabSize: fc.oneof(
    { weight: 9, arbitrary: fc.integer({ min: 5, max: 200 }) },
    { weight: 1, arbitrary: fc.integer({ min: 1025, max: 1200 }) },
  ),
  numLogits: fc.option(fc.integer({ min: 1, max: 200 }), { nil: undefined, freq: 2 }),
  formats: fc.uniqueArray(fc.nat(WEIGHT_FORMATS.length - 1), { minLength: 1, maxLength: WEIGHT_FORMATS.length }),
});

/** Shapes of models with mixtures, small ones, since every token uses several experts. */
export const mixtureModelShape: fc.Arbitrary<ModelShape> = fc
  .tuple(modelShape, mixtureShape, fc.integer({ min: 1, max: 2 }))
  .map(([shape, mixture, numLayers]) => ({ ...shape, mixture, numLayers }));

/** Shapes of models with recurrences, small ones, since the plain implementation goes through every number of a state. */
export const recurrentModelShape: fc.Arbitrary<ModelShape> = fc
  .tuple(modelShape, fc.constantFrom(0.4, 0.7, 1), fc.option(mixtureShape, { nil: undefined, freq: 2 }))
  .map(([shape, recurrentShare, mixture]) => ({
    ...shape,
    hiddenSize: Math.min(64, shape.hiddenSize),
    recurrentShare,
    mixture,
  }));
