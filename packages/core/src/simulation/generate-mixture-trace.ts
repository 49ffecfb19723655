import { integerOption, rejectUnknownKeys } from "../options.ts";
import {
  drawSequences,
  drawsOf,
  expectNumber,
  type GeneratedSequencesOptions,
  type Resolved,
  resolveSequences,
  SEQUENCE_OPTIONS,
} from "./generated-sequences.ts";
import type { MixtureSequence, MixtureTrace } from "./mixture-trace.ts";

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
  const drawn = withDefaults(options);
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

function withDefaults(options: GeneratedMixtureOptions): Drawn {
  const { expertsPerToken, locality = 0.25, coupling = 0.5, skew = 0.5, ...others } = options;
  rejectUnknownKeys("generateMixtureTrace", options, OPTION_NAMES);
  const sequences = resolveSequences(others);
  integerOption("expertsPerToken", expertsPerToken, 1, sequences.numExperts);
  expectNumber("locality", locality, 0, 1);
  expectNumber("coupling", coupling, 0, 1);
  expectNumber("skew", skew, 0, 8);
  return { ...sequences, expertsPerToken, locality, coupling, skew };
}

const OPTION_NAMES: readonly string[] = [...SEQUENCE_OPTIONS, "expertsPerToken", "locality", "coupling", "skew"];
