import { integerOption, describeValue, rejectUnknownKeys } from "../options.ts";
import { uniformAt } from "../random.ts";
import type { ExpertTrace, TraceSequence } from "./trace.ts";

/** Options of `generateTrace`: the model's experts, and properties of the generated sequences. */
export interface GeneratedTraceOptions {
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
  /** Share of tokens that keep the expert of the previous token, in [0, 1]. @default 0.9 */
  readonly locality?: number | undefined;
  /** Share of the other tokens that return to their domain's own expert, in [0, 1]. @default 0.5 */
  readonly homeShare?: number | undefined;
}

type ResolvedOptions = { readonly [Name in keyof GeneratedTraceOptions]-?: NonNullable<GeneratedTraceOptions[Name]> };

/**
 * Draws a trace. There is one domain for each expert. Each sequence belongs to a domain, all with equal probability,
 * and begins with its domain's expert. From token to token it keeps its expert with probability `locality`; otherwise
 * it returns to its domain's expert, or changes to any other one.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function generateTrace(options: GeneratedTraceOptions): ExpertTrace {
  const drawn = withDefaults(options);
  const { numExperts, layerBytes, numSequences, arrivalsPerStep, seed } = drawn;
  let arrival = 0;
  const sequences = Array.from({ length: numSequences }, (_, number): TraceSequence => {
    const draw = drawsOf(seed, number);
    // Times between arrivals of a Poisson process are exponentially distributed.
    arrival += -Math.log(1 - draw()) / arrivalsPerStep;
    const promptTokens = geometric(draw(), drawn.meanPromptTokens);
    const outputTokens = geometric(draw(), drawn.meanOutputTokens);
    const experts = routeOf(draw, promptTokens + outputTokens - 1, drawn);
    return { id: `s${number}`, arrivalStep: Math.floor(arrival), promptTokens, experts };
  });
  return { layout: { numExperts, layerBytes }, sequences, steps: [] };
}

function routeOf(
  draw: () => number,
  numTokens: number,
  { numExperts, locality, homeShare }: ResolvedOptions,
): readonly number[] {
  const home = Math.floor(draw() * numExperts);
  const experts = [home];
  while (experts.length < numTokens) {
    const last = experts.at(-1) ?? home;
    const isKept = numExperts === 1 || draw() < locality;
    if (isKept) experts.push(last);
    else if (last !== home && draw() < homeShare) experts.push(home);
    else experts.push((last + 1 + Math.floor(draw() * (numExperts - 1))) % numExperts);
  }
  return experts;
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

function withDefaults(options: GeneratedTraceOptions): ResolvedOptions {
  const { numExperts, layerBytes, numSequences } = options;
  const { seed = 0, arrivalsPerStep = 0.25, meanPromptTokens = 64, meanOutputTokens = 32 } = options;
  const { locality = 0.9, homeShare = 0.5 } = options;
  const known = { numExperts, layerBytes, numSequences, seed, arrivalsPerStep, meanPromptTokens, meanOutputTokens };
  const all = { ...known, locality, homeShare };
  rejectUnknownKeys("generateTrace", options, Object.keys(all));
  integerOption("numExperts", numExperts, 1);
  for (const [layer, bytes] of layerBytes.entries()) integerOption(`layerBytes[${layer}]`, bytes, 1);
  integerOption("numSequences", numSequences, 1);
  integerOption("seed", seed, 0);
  expectNumber("arrivalsPerStep", arrivalsPerStep, Number.MIN_VALUE, Infinity);
  expectNumber("meanPromptTokens", meanPromptTokens, 1, 2 ** 20);
  expectNumber("meanOutputTokens", meanOutputTokens, 1, 2 ** 20);
  expectNumber("locality", locality, 0, 1);
  expectNumber("homeShare", homeShare, 0, 1);
  return all;
}

/** Checks that `value` is a number in `[least, most]`. @throws {RangeError} naming the option */
export function expectNumber(name: string, value: number, least: number, most: number): void {
  if (typeof value === "number" && value >= least && value <= most) return;
  const range = most === Infinity ? "above 0" : `from ${least} to ${most}`;
  throw new RangeError(`Expected \`${name}\` to be ${range}, got ${describeValue(value)}`);
}
