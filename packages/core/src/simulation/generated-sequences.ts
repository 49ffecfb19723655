// Sequences of generated traces: when they arrive, and how long they are.

import { describeValue, integerOption } from "../options.ts";
import { uniformAt } from "../random.ts";

/** Options that all generated traces have. */
export interface GeneratedSequencesOptions {
  readonly numExperts: number;
  /** Bytes of one expert in each layer, `[numLayers]`. */
  readonly layerBytes: readonly number[];
  readonly numSequences: number;
  /** Seed in [0, 2^53). @default 0 */
  readonly seed?: number | undefined;
  /** Mean number of sequences that arrive per step (a Poisson process), above 0. @default 0.25 */
  readonly arrivalsPerStep?: number | undefined;
  /** Mean length of prompts, at least 1; lengths are geometric. @default 64 */
  readonly meanPromptTokens?: number | undefined;
  /** Mean length of outputs, at least 1; lengths are geometric. @default 32 */
  readonly meanOutputTokens?: number | undefined;
}

/** Names of these options. */
export const SEQUENCE_OPTIONS: readonly (keyof GeneratedSequencesOptions)[] = [
  "numExperts",
  "layerBytes",
  "numSequences",
  "seed",
  "arrivalsPerStep",
  "meanPromptTokens",
  "meanOutputTokens",
];

/** Options with all defaults filled in. */
export type Resolved<Options> = { readonly [Name in keyof Options]-?: NonNullable<Options[Name]> };

/** Fills in the defaults and checks the values. @throws {TypeError | RangeError} naming the option */
export function resolveSequences(options: GeneratedSequencesOptions): Resolved<GeneratedSequencesOptions> {
  const { numExperts, layerBytes, numSequences } = options;
  const { seed = 0, arrivalsPerStep = 0.25, meanPromptTokens = 64, meanOutputTokens = 32 } = options;
  integerOption("numExperts", numExperts, 1);
  for (const [layer, bytes] of layerBytes.entries()) integerOption(`layerBytes[${layer}]`, bytes, 1);
  integerOption("numSequences", numSequences, 1);
  integerOption("seed", seed, 0);
  expectNumber("arrivalsPerStep", arrivalsPerStep, Number.MIN_VALUE, Infinity);
  expectNumber("meanPromptTokens", meanPromptTokens, 1, 2 ** 20);
  expectNumber("meanOutputTokens", meanOutputTokens, 1, 2 ** 20);
  return { numExperts, layerBytes, numSequences, seed, arrivalsPerStep, meanPromptTokens, meanOutputTokens };
}

/** A sequence without its routes. */
export interface DrawnSequence {
  readonly id: string;
  readonly arrivalStep: number;
  readonly promptTokens: number;
}

/**
 * Draws sequences.
 * @param complete - adds the routes of a sequence's tokens, which all but the last one have
 */
export function drawSequences<Sequence>(
  { seed, numSequences, arrivalsPerStep, meanPromptTokens, meanOutputTokens }: Resolved<GeneratedSequencesOptions>,
  complete: (sequence: DrawnSequence, numTokens: number, draw: () => number) => Sequence,
): readonly Sequence[] {
  let arrival = 0;
  return Array.from({ length: numSequences }, (_, number) => {
    const draw = drawsOf(seed, number);
    // Times between arrivals of a Poisson process are exponentially distributed.
    arrival += -Math.log(1 - draw()) / arrivalsPerStep;
    const promptTokens = geometric(draw(), meanPromptTokens);
    const outputTokens = geometric(draw(), meanOutputTokens);
    const sequence = { id: `s${number}`, arrivalStep: Math.floor(arrival), promptTokens };
    return complete(sequence, promptTokens + outputTokens - 1, draw);
  });
}

/** Creates a generator of numbers in [0, 1), independent for each sequence. */
export function drawsOf(seed: number, sequence: number): () => number {
  let position = 0;
  return () => uniformAt(seed, sequence, position++);
}

/** Converts a uniform number in [0, 1) to a length from 1 up with this mean. */
export function geometric(uniform: number, mean: number): number {
  return mean === 1 ? 1 : 1 + Math.floor(Math.log(1 - uniform) / Math.log(1 - 1 / mean));
}

/** Checks that `value` is a number in `[least, most]`. @throws {RangeError} naming the option */
export function expectNumber(name: string, value: number, least: number, most: number): void {
  if (typeof value === "number" && value >= least && value <= most) return;
  const range = most === Infinity ? "above 0" : `from ${least} to ${most}`;
  throw new RangeError(`Expected \`${name}\` to be ${range}, got ${describeValue(value)}`);
}
