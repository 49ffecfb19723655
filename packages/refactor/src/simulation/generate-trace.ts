// Generated traces: when sequences arrive, how long they are, and which experts their tokens need.

import {
  describeValue,
  integerOption,
  uniformAt,
  rejectUnknownKeys,
  type ExpertTrace,
  type TraceSequence,
} from "@readme-moe/core";
import type { MixtureSequence, MixtureTrace } from "./read-trace.ts";

/** Options that all generated traces have. */
interface GeneratedSequencesOptions {
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
const SEQUENCE_OPTIONS: readonly (keyof GeneratedSequencesOptions)[] = [
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
function resolveSequences(options: GeneratedSequencesOptions): Resolved<GeneratedSequencesOptions> {
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
interface DrawnSequence {
  readonly id: string;
  readonly arrivalStep: number;
  readonly promptTokens: number;
}

/**
 * Draws sequences.
 * @param complete - adds the routes of a sequence's tokens, which all but the last one have
 */
function drawSequences<Sequence>(
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
function expectNumber(name: string, value: number, least: number, most: number): void {
  if (typeof value === "number" && value >= least && value <= most) return;
  const range = most === Infinity ? "above 0" : `from ${least} to ${most}`;
  throw new RangeError(`Expected \`${name}\` to be ${range}, got ${describeValue(value)}`);
}

/** Options of `generateTrace`: the model's experts, and properties of the generated sequences. */
export interface GeneratedTraceOptions extends GeneratedSequencesOptions {
  /** Share of tokens that keep the expert of the previous token, in [0, 1]. @default 0.9 */
  readonly locality?: number | undefined;
  /** Share of the other tokens that return to their domain's own expert, in [0, 1]. @default 0.5 */
  readonly homeShare?: number | undefined;
}

type ResolvedOptions = Resolved<GeneratedTraceOptions>;

/**
 * Draws a trace. There is one domain for each expert. Each sequence belongs to a domain, all with equal probability,
 * and begins with its domain's expert. From token to token it keeps its expert with probability `locality`; otherwise
 * it returns to its domain's expert, or changes to any other one.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function generateTrace(options: GeneratedTraceOptions): ExpertTrace {
  const drawn = withDefaults(options);
  const { numExperts, layerBytes } = drawn;
  const sequences = drawSequences(drawn, (sequence, numTokens, draw): TraceSequence => ({
    ...sequence,
    experts: routeOf(draw, numTokens, drawn),
  }));
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

function withDefaults(options: GeneratedTraceOptions): ResolvedOptions {
  const { locality = 0.9, homeShare = 0.5, ...others } = options;
  rejectUnknownKeys("generateTrace", options, OPTION_NAMES);
  const sequences = resolveSequences(others);
  expectNumber("locality", locality, 0, 1);
  expectNumber("homeShare", homeShare, 0, 1);
  return { ...sequences, locality, homeShare };
}

const OPTION_NAMES: readonly string[] = [...SEQUENCE_OPTIONS, "locality", "homeShare"];

/** Options of `generateMixtureTrace`: the mixture's experts, and properties of the generated sequences. */
export interface GeneratedMixtureOptions extends GeneratedSequencesOptions {
  /** Number of distinct experts that a layer chooses for a token, up to `numExperts`. */
  readonly expertsPerToken: number;
  /** Chance that a token keeps an expert of the token before, for each of them, in [0, 1]. @default 0.25 */
  readonly locality?: number | undefined;
  /** Chance that another expert follows one of the layer before, in [0, 1]. @default 0.5 */
  readonly coupling?: number | undefined;
  /** Exponent of Zipf's law for the shares of a layer's experts, from 0 (equal). @default 0.5 */
  readonly skew?: number | undefined;
}

type Drawn = Resolved<GeneratedMixtureOptions>;

/**
 * Draws a trace of a mixture with a router in every layer.
 *
 * Each layer orders its experts by chance, and their shares follow Zipf's law. A token keeps each expert of the token
 * before in the same layer with the chance `locality`. Then it draws experts until it has enough: with the chance
 * `coupling` the fixed successor of an expert of the layer before, else by shares.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function generateMixtureTrace(options: GeneratedMixtureOptions): MixtureTrace {
  const drawn = mixtureDefaults(options);
  const { numExperts, layerBytes, expertsPerToken } = drawn;
  const layers = layerBytes.map((_, layer) => layerOf(drawn, layer));
  const sequences = drawSequences(drawn, (sequence, numTokens, draw): MixtureSequence => {
    const routes = new Int32Array(numTokens * layers.length * expertsPerToken);
    let before: readonly (readonly number[])[] = [];
    for (let token = 0, at = 0; token < numTokens; token++) {
      const route: number[][] = [];
      for (const [layer, own] of layers.entries()) {
        const experts = expertsOf(draw, { before: before[layer] ?? [], previous: route[layer - 1] ?? [] }, own, drawn);
        routes.set(experts, at);
        at += expertsPerToken;
        route.push(experts);
      }
      before = route;
    }
    return { ...sequence, routes };
  });
  return { layout: { numExperts, layerBytes }, expertsPerToken, sequences };
}

/** A layer's experts. */
interface DrawnLayer {
  /** Share of each expert, `[numExperts]`. */
  readonly shares: readonly number[];
  /** Expert that follows each expert of the layer before. */
  readonly successors: readonly number[];
}

function layerOf({ numExperts, skew, seed }: Drawn, layer: number): DrawnLayer {
  // Sequences draw with small numbers.
  const draw = drawsOf(seed, 2 ** 31 + layer);
  const order = shuffled(numExperts, draw);
  const shares = order.map((place) => (place + 1) ** -skew);
  return { shares, successors: shuffled(numExperts, draw) };
}

/** Orders the numbers below `count` by chance (Fisher and Yates). */
function shuffled(count: number, draw: () => number): readonly number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(draw() * (last + 1));
    [order[last], order[other]] = [order[other] ?? 0, order[last] ?? 0];
  }
  return order;
}

function expertsOf(
  draw: () => number,
  { before, previous }: { readonly before: readonly number[]; readonly previous: readonly number[] },
  { shares, successors }: DrawnLayer,
  { expertsPerToken, locality, coupling }: Drawn,
): number[] {
  const chosen = new Set(before.filter(() => draw() < locality));
  const followers = previous.map((expert) => successors[expert] ?? 0).filter(() => draw() < coupling);
  for (const expert of followers) if (chosen.size < expertsPerToken) chosen.add(expert);
  while (chosen.size < expertsPerToken) chosen.add(drawOther(draw(), shares, chosen));
  return Array.from(chosen);
}

/** Draws an expert that is not chosen yet, by shares. @param uniform - in [0, 1) */
function drawOther(uniform: number, shares: readonly number[], chosen: ReadonlySet<number>): number {
  const left = Array.from(shares.keys()).filter((expert) => !chosen.has(expert));
  let rest = uniform * left.reduce((sum, expert) => sum + (shares[expert] ?? 0), 0);
  const found = left.find((expert) => (rest -= shares[expert] ?? 0) < 0);
  return found ?? left.at(-1) ?? 0;
}

function mixtureDefaults(options: GeneratedMixtureOptions): Drawn {
  const { expertsPerToken, locality = 0.25, coupling = 0.5, skew = 0.5, ...others } = options;
  rejectUnknownKeys("generateMixtureTrace", options, MIXTURE_OPTION_NAMES);
  const sequences = resolveSequences(others);
  integerOption("expertsPerToken", expertsPerToken, 1, sequences.numExperts);
  expectNumber("locality", locality, 0, 1);
  expectNumber("coupling", coupling, 0, 1);
  expectNumber("skew", skew, 0, 8);
  return { ...sequences, expertsPerToken, locality, coupling, skew };
}

const MIXTURE_OPTION_NAMES: readonly string[] = [
  ...SEQUENCE_OPTIONS,
  "expertsPerToken",
  "locality",
  "coupling",
  "skew",
];
