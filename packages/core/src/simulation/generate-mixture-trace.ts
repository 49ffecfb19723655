import { integerOption, rejectUnknownKeys } from "../options.ts";
import { drawsOf, expectNumber, geometric } from "./generate-trace.ts";
import type { MixtureSequence, MixtureTrace } from "./mixture-trace.ts";

/** Options of `generateMixtureTrace`: the mixture's experts, and properties of the generated sequences. */
export interface GeneratedMixtureOptions {
  readonly numExperts: number;
  /** Bytes of one expert in each layer, `[numLayers]`. */
  readonly layerBytes: readonly number[];
  /** Number of distinct experts that a layer chooses for a token, up to `numExperts`. */
  readonly expertsPerToken: number;
  readonly numSequences: number;
  /** Seed in [0, 2^53). @default 0 */
  readonly seed?: number | undefined;
  /** Mean number of sequences that arrive per step (a Poisson process), above 0. @default 0.25 */
  readonly arrivalsPerStep?: number | undefined;
  /** Mean length of prompts, at least 1; lengths are geometric. @default 64 */
  readonly meanPromptTokens?: number | undefined;
  /** Mean length of outputs, at least 1; lengths are geometric. @default 32 */
  readonly meanOutputTokens?: number | undefined;
  /** Chance that a token keeps an expert of the token before, for each of them, in [0, 1]. @default 0.25 */
  readonly locality?: number | undefined;
  /** Chance that another expert follows one of the layer before, in [0, 1]. @default 0.5 */
  readonly coupling?: number | undefined;
  /** Exponent of Zipf's law for the shares of a layer's experts, from 0 (equal). @default 0.5 */
  readonly skew?: number | undefined;
}

type Drawn = Readonly<
  Required<{ [Name in keyof GeneratedMixtureOptions]-?: NonNullable<GeneratedMixtureOptions[Name]> }>
>;

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
  const { numExperts, layerBytes, numSequences, expertsPerToken, arrivalsPerStep, seed } = drawn;
  const layers = layerBytes.map((_, layer) => layerOf(drawn, layer));
  let arrival = 0;
  const sequences = Array.from({ length: numSequences }, (_, number): MixtureSequence => {
    const draw = drawsOf(seed, number);
    // Times between arrivals of a Poisson process are exponentially distributed.
    arrival += -Math.log(1 - draw()) / arrivalsPerStep;
    const promptTokens = geometric(draw(), drawn.meanPromptTokens);
    const outputTokens = geometric(draw(), drawn.meanOutputTokens);
    const routes = new Int32Array((promptTokens + outputTokens - 1) * layers.length * expertsPerToken);
    let before: readonly (readonly number[])[] = [];
    for (let token = 0, at = 0; token < promptTokens + outputTokens - 1; token++) {
      const route: number[][] = [];
      for (const [layer, own] of layers.entries()) {
        const experts = expertsOf(draw, { before: before[layer] ?? [], previous: route[layer - 1] ?? [] }, own, drawn);
        routes.set(experts, at);
        at += expertsPerToken;
        route.push(experts);
      }
      before = route;
    }
    return { id: `s${number}`, arrivalStep: Math.floor(arrival), promptTokens, routes };
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
  const { numExperts, layerBytes, expertsPerToken, numSequences } = options;
  const { seed = 0, arrivalsPerStep = 0.25, meanPromptTokens = 64, meanOutputTokens = 32 } = options;
  const { locality = 0.25, coupling = 0.5, skew = 0.5 } = options;
  const shape = { numExperts, layerBytes, expertsPerToken, numSequences, seed };
  const all = { ...shape, arrivalsPerStep, meanPromptTokens, meanOutputTokens, locality, coupling, skew };
  rejectUnknownKeys("generateMixtureTrace", options, Object.keys(all));
  integerOption("numExperts", numExperts, 1);
  for (const [layer, bytes] of layerBytes.entries()) integerOption(`layerBytes[${layer}]`, bytes, 1);
  integerOption("expertsPerToken", expertsPerToken, 1, numExperts);
  integerOption("numSequences", numSequences, 1);
  integerOption("seed", seed, 0);
  expectNumber("arrivalsPerStep", arrivalsPerStep, Number.MIN_VALUE, Infinity);
  expectNumber("meanPromptTokens", meanPromptTokens, 1, 2 ** 20);
  expectNumber("meanOutputTokens", meanOutputTokens, 1, 2 ** 20);
  expectNumber("locality", locality, 0, 1);
  expectNumber("coupling", coupling, 0, 1);
  expectNumber("skew", skew, 0, 8);
  return all;
}
