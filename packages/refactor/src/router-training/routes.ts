// Routes texts, and compares what routes cost with the best and the worst possible choices.

import type { Model } from "@readme-moe/model";
import { KernelRouter, routeStatistics, type RouteStatistics } from "@readme-moe/router";

/** Returns the expert of each token of a text. */
export type Route = (tokenIds: Int32Array) => Promise<Uint16Array>;

/** Opens a model's own router for `use`. Each text is routed from its beginning. */
export async function withKernelRouter<Result>(
  model: Model,
  options: { readonly cacheFolder: string; readonly threads: number | undefined },
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  const router = await KernelRouter.open(model, options);
  try {
    return await use(async (tokenIds) => {
      const state = router.start();
      const [route] = await router.route([{ state, tokenIds }]);
      router.release(state);
      return Uint16Array.from(route?.experts ?? []);
    });
  } finally {
    await router.dispose();
  }
}

/** Experts chosen for a text's tokens, and the costs of all experts. */
interface RoutedText {
  readonly experts: ArrayLike<number>;
  /** `[tokens, numExperts]`, lower is better. */
  readonly costs: Float32Array;
}

/** Means over tokens. */
export interface RouteFigures extends RouteStatistics {
  readonly tokens: number;
  /** Cost of the chosen experts. */
  readonly cost: number;
  /** Cost of each token's best expert. */
  readonly oracleCost: number;
  /** Cost of each text's best expert. */
  readonly textOracleCost: number;
  /** Cost of the best expert for all texts together. */
  readonly singleCost: number;
  /** Cost of a randomly drawn expert. */
  readonly randomCost: number;
  /**
   * `(cost - oracleCost) / (randomCost - oracleCost)`: 0 is the oracle, 1 is chance; 0 when all experts cost the same.
   */
  readonly regret: number;
  /** Share of the tokens whose best expert was chosen. */
  readonly accuracy: number;
}

/** @throws {RangeError} when there are no tokens, or numbers of tokens and costs disagree */
export function evaluateRoutes(texts: readonly RoutedText[], numExperts: number): RouteFigures {
  const totals = new Float64Array(numExperts);
  let [tokens, cost, oracle, textOracle, hits] = [0, 0, 0, 0, 0];
  for (const { experts, costs } of texts) {
    if (costs.length !== experts.length * numExperts) {
      const expected = `${experts.length} x ${numExperts} values`;
      throw new RangeError(`Expected \`costs\` to have ${expected}, got ${costs.length}`);
    }
    const ofText = new Float64Array(numExperts);
    for (let token = 0; token < experts.length; token++) {
      const start = token * numExperts;
      const own = costs[start + experts[token]!]!;
      let least = Infinity;
      for (let expert = 0; expert < numExperts; expert++) {
        const value = costs[start + expert]!;
        ofText[expert]! += value;
        if (value < least) least = value;
      }
      cost += own;
      oracle += least;
      if (own === least) hits++;
    }
    tokens += experts.length;
    textOracle += Math.min(...ofText);
    ofText.forEach((sum, expert) => (totals[expert]! += sum));
  }
  if (tokens === 0) throw new RangeError("Expected `texts` to hold at least one token, got none");
  const random = totals.reduce((sum, value) => sum + value, 0) / numExperts;
  return {
    tokens,
    cost: cost / tokens,
    oracleCost: oracle / tokens,
    textOracleCost: textOracle / tokens,
    singleCost: Math.min(...totals) / tokens,
    randomCost: random / tokens,
    regret: random > oracle ? (cost - oracle) / (random - oracle) : 0,
    accuracy: hits / tokens,
    ...routeStatistics(
      texts.map(({ experts }) => experts),
      numExperts,
    ),
  };
}

// Training examples of a router, and their targets: one distribution over experts for each token.

/** Text that a router learns from. */
export interface RouterExample {
  readonly tokenIds: Int32Array;
  /** Costs of each expert, `[tokens, numExperts]`, lower is better. */
  readonly costs: Float32Array;
}

/** One of ten examples is kept for validation, which decides when to stop. */
const VALIDATION_EVERY = 10;

export function splitExamples(examples: readonly RouterExample[]): {
  readonly examples: readonly RouterExample[];
  readonly validation: readonly RouterExample[];
} {
  const isKept = (_: RouterExample, index: number): boolean => index % VALIDATION_EVERY === VALIDATION_EVERY - 1;
  return {
    examples: examples.filter((example, index) => !isKept(example, index)),
    validation: examples.filter(isKept),
  };
}

/** Returns the costs of a text whose tokens all cost the same. @param row - by expert */
export function repeatedCosts(row: Float64Array, numTokens: number): Float32Array {
  return new Float32Array(numTokens * row.length).map((_, at) => row[at % row.length]!);
}

interface TargetOptions {
  readonly numExperts: number;
  /** Whether costs are negated target distributions already; the targets prefer experts that cost less otherwise. */
  readonly isGiven: boolean;
  /**
   * An expert that costs this much less is e times as likely. In units of what the best expert of a token saves against
   * the mean expert, on average, so that it does not depend on the scale of costs.
   */
  readonly temperature: number;
  /**
   * A token's costs are averaged over this many tokens around it: routes that change less often are cheaper to serve.
   */
  readonly localityTokens: number;
}

/** Share of smoothed labels in the loss, their smoothing, and the factor of scores in the paper's official code. */
const PAPER = { labelShare: 0.75, smoothing: 0.5, sharpness: 10 } as const;

/** Computes the targets of each example, `[tokens, numExperts]`. */
export function routerTargets(
  examples: readonly RouterExample[],
  { numExperts, isGiven, temperature, localityTokens }: TargetOptions,
): readonly Float32Array[] {
  const smooth = examples.map(({ costs }) => windowMeans(costs, numExperts, localityTokens));
  const scaled = temperature * meanSaving(smooth, numExperts);
  const targets = smooth.map((costs) => (isGiven ? costs.map((cost) => -cost) : softmin(costs, numExperts, scaled)));
  for (const rows of targets) multiplyBySums(rows, numExperts);
  return targets;
}

/** Averages rows over windows of `size` rows around each row, cut off at the ends. */
export function windowMeans(rows: Float32Array, columns: number, size: number): Float32Array {
  if (size <= 1) return rows;
  const count = rows.length / columns;
  const result = new Float32Array(rows.length);
  const sums = new Float64Array((count + 1) * columns);
  for (let i = 0; i < rows.length; i++) sums[i + columns] = sums[i]! + rows[i]!;
  const before = Math.floor((size - 1) / 2);
  for (let row = 0; row < count; row++) {
    const from = Math.max(0, row - before);
    const to = Math.min(count, row - before + size);
    for (let column = 0; column < columns; column++) {
      const sum = sums[to * columns + column]! - sums[from * columns + column]!;
      result[row * columns + column] = sum / (to - from);
    }
  }
  return result;
}

/** Averages what the best expert saves against the mean expert; 1 when all experts cost the same. */
function meanSaving(examples: readonly Float32Array[], columns: number): number {
  let [saved, tokens] = [0, 0];
  for (const costs of examples) {
    for (let start = 0; start < costs.length; start += columns, tokens++) {
      let [sum, least] = [0, Infinity];
      for (let i = start; i < start + columns; i++) {
        sum += costs[i]!;
        least = Math.min(least, costs[i]!);
      }
      saved += sum / columns - least;
    }
  }
  return saved > 0 ? saved / tokens : 1;
}

/** Computes `softmax(-costs / temperature)` of each row. */
function softmin(costs: Float32Array, columns: number, temperature: number): Float32Array {
  const result = new Float32Array(costs.length);
  for (let start = 0; start < costs.length; start += columns) {
    let least = Infinity;
    for (let i = start; i < start + columns; i++) least = Math.min(least, costs[i]!);
    let sum = 0;
    for (let i = start; i < start + columns; i++) {
      const value = Math.exp((least - costs[i]!) / temperature);
      result[i] = value;
      sum += value;
    }
    for (let i = start; i < start + columns; i++) result[i]! /= sum;
  }
  return result;
}

/**
 * Computes targets whose cross-entropy is the official loss, `0.75 · CE(best, label smoothing 0.5) + 0.25 ·
 * CE(softmax(10 · score))`.
 *
 * @param scores - `[tokens, columns]`, see `overlapGraph`
 */
export function paperTargets(scores: Float32Array, columns: number): Float32Array {
  const { labelShare, smoothing, sharpness } = PAPER;
  const negated = scores.map((score) => -score);
  const result = softmin(negated, columns, 1 / sharpness);
  for (let start = 0; start < scores.length; start += columns) {
    let best = start;
    for (let i = start; i < start + columns; i++) if (scores[i]! > scores[best]!) best = i;
    for (let i = start; i < start + columns; i++) {
      const label = smoothing / columns + (i === best ? 1 - smoothing : 0);
      result[i] = labelShare * label + (1 - labelShare) * result[i]!;
    }
  }
  return result;
}

/** Multiplies each row by its sum, which is 1 up to rounding: trained routers stay the same to the last bit. */
function multiplyBySums(rows: Float32Array, columns: number): void {
  for (let start = 0; start < rows.length; start += columns) {
    let sum = 0;
    for (let i = start; i < start + columns; i++) sum += rows[i]!;
    for (let i = start; i < start + columns; i++) rows[i]! *= sum;
  }
}
