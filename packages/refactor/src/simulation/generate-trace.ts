// Generated traces: when sequences arrive, how long they are, and which experts their tokens need.

import {
  type ExpertTrace,
  integerOption,
  type OptionsOf,
  type ResolvedOf,
  type TraceSequence,
  uniformAt,
} from "@readme-moe/core";
import { checkedOptions, type LabTable } from "../option-table.ts";
import { drawIndex, shuffled } from "../random.ts";
import type { MixtureSequence, MixtureTrace } from "./read-trace.ts";

/** Options that all generated traces have. */
const SEQUENCE_OPTIONS = {
  /** Number of experts of the model. */
  numExperts: { kind: "integer", min: 1, isRequired: true },
  /** Bytes of one expert in each layer, `[numLayers]`. */
  layerBytes: { kind: "integers", min: 1, isRequired: true },
  /** Number of sequences. */
  numSequences: { kind: "integer", min: 1, isRequired: true },
  /** Seed in [0, 2^53). @default 0 */
  seed: { kind: "integer", default: 0 },
  /** Mean number of sequences that arrive per step (a Poisson process), above 0. @default 0.25 */
  arrivalsPerStep: { kind: "number", above: 0, default: 0.25 },
  /** Mean length of prompts, at least 1; lengths are geometric. @default 64 */
  meanPromptTokens: { kind: "number", min: 1, max: 2 ** 20, default: 64 },
  /** Mean length of outputs, at least 1; lengths are geometric. @default 32 */
  meanOutputTokens: { kind: "number", min: 1, max: 2 ** 20, default: 32 },
} as const satisfies LabTable;

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
  { seed, numSequences, arrivalsPerStep, meanPromptTokens, meanOutputTokens }: ResolvedOf<typeof SEQUENCE_OPTIONS>,
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

const TRACE_OPTIONS = {
  ...SEQUENCE_OPTIONS,
  /** Share of tokens that keep the expert of the previous token, in [0, 1]. @default 0.9 */
  locality: { kind: "number", max: 1, default: 0.9 },
  /** Share of the other tokens that return to their domain's own expert, in [0, 1]. @default 0.5 */
  homeShare: { kind: "number", max: 1, default: 0.5 },
} as const satisfies LabTable;

/** Options of `generateTrace`: the model's experts, and properties of the generated sequences. */
export type GeneratedTraceOptions = OptionsOf<typeof TRACE_OPTIONS>;

/**
 * Draws a trace. There is one domain for each expert. Each sequence belongs to a domain, all with equal probability,
 * and begins with its domain's expert. From token to token it keeps its expert with probability `locality`; otherwise
 * it returns to its domain's expert, or changes to any other one.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function generateTrace(options: GeneratedTraceOptions): ExpertTrace {
  const drawn = checkedOptions("generateTrace", TRACE_OPTIONS, options);
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
  { numExperts, locality, homeShare }: ResolvedOf<typeof TRACE_OPTIONS>,
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

const MIXTURE_OPTIONS = {
  ...SEQUENCE_OPTIONS,
  /** Number of distinct experts that a layer chooses for a token, up to `numExperts`. */
  expertsPerToken: { kind: "integer", min: 1, isRequired: true },
  /** Chance that a token keeps an expert of the token before, for each of them, in [0, 1]. @default 0.25 */
  locality: { kind: "number", max: 1, default: 0.25 },
  /** Chance that another expert follows one of the layer before, in [0, 1]. @default 0.5 */
  coupling: { kind: "number", max: 1, default: 0.5 },
  /** Exponent of Zipf's law for the shares of a layer's experts, from 0 (equal) to 8. @default 0.5 */
  skew: { kind: "number", max: 8, default: 0.5 },
} as const satisfies LabTable;

/** Options of `generateMixtureTrace`: the mixture's experts, and properties of the generated sequences. */
export type GeneratedMixtureOptions = OptionsOf<typeof MIXTURE_OPTIONS>;

type Drawn = ResolvedOf<typeof MIXTURE_OPTIONS>;

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
  const drawn = checkedOptions("generateMixtureTrace", MIXTURE_OPTIONS, options);
  const { numExperts, layerBytes, expertsPerToken } = drawn;
  integerOption("expertsPerToken", expertsPerToken, 1, numExperts);
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
  const experts = [...Array(numExperts).keys()];
  const shares = shuffled(experts, draw).map((place) => (place + 1) ** -skew);
  return { shares, successors: shuffled(experts, draw) };
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
  const place = drawIndex(
    uniform,
    left.map((expert) => shares[expert] ?? 0),
  );
  return left[place] ?? 0;
}
