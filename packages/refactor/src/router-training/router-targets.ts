// From costs to what a router is to say: one distribution over experts per token.

import type { RouterExample } from "./router-example.ts";

/** `soft` prefers experts that cost less; with `given`, costs are the distributions themselves, negated. */
export type TargetKind = "soft" | "given";

export interface TargetOptions {
  readonly target: TargetKind;
  /**
   * An expert that costs this much less is e times as likely; `soft` only. In units of what the best expert of a token
   * saves against the mean expert, on average, so that it does not depend on the scale of costs.
   */
  readonly temperature: number;
  /** A token's costs are means over this many tokens around it: routes that keep their expert are cheaper to serve. */
  readonly localityTokens: number;
  /** 0 weighs all tokens alike, 1 gives experts equal shares of the loss. */
  readonly classBalance: number;
}

// The official code's: the share of smoothed labels in the loss, their smoothing, and the scores' factor.
const PAPER = { labelShare: 0.75, smoothing: 0.5, sharpness: 10 } as const;

/** Per example `[tokens, numExperts]`; a token's row sums to its weight. */
export function routerTargets(
  examples: readonly RouterExample[],
  numExperts: number,
  options: TargetOptions,
): readonly Float32Array[] {
  const smooth = examples.map(({ costs }) => windowMeans(costs, numExperts, options.localityTokens));
  const temperature = options.temperature * meanSaving(smooth, numExperts);
  const targets = smooth.map((costs) =>
    options.target === "given" ? costs.map((cost) => -cost) : softmin(costs, numExperts, temperature),
  );
  const factors = classFactors(examples, targets, numExperts, options.classBalance);
  examples.forEach(({ weight = 1 }, index) => weigh(targets[index] as Float32Array, factors, weight));
  return targets;
}

/** Means over windows of `size` rows around each row, cut off at the ends. */
export function windowMeans(rows: Float32Array, columns: number, size: number): Float32Array {
  if (size <= 1) return rows;
  const count = rows.length / columns;
  const result = new Float32Array(rows.length);
  const sums = new Float64Array((count + 1) * columns);
  for (let i = 0; i < rows.length; i++) sums[i + columns] = (sums[i] as number) + (rows[i] as number);
  const before = Math.floor((size - 1) / 2);
  for (let row = 0; row < count; row++) {
    const from = Math.max(0, row - before);
    const to = Math.min(count, row - before + size);
    for (let column = 0; column < columns; column++) {
      const sum = (sums[to * columns + column] as number) - (sums[from * columns + column] as number);
      result[row * columns + column] = sum / (to - from);
    }
  }
  return result;
}

/** What the best expert saves against the mean expert; 1 where all are alike. */
function meanSaving(examples: readonly Float32Array[], columns: number): number {
  let [saved, tokens] = [0, 0];
  for (const costs of examples) {
    for (let start = 0; start < costs.length; start += columns, tokens++) {
      let [sum, least] = [0, Infinity];
      for (let i = start; i < start + columns; i++) {
        sum += costs[i] as number;
        least = Math.min(least, costs[i] as number);
      }
      saved += sum / columns - least;
    }
  }
  return saved > 0 ? saved / tokens : 1;
}

/** `softmax(-costs / temperature)` of each row. */
function softmin(costs: Float32Array, columns: number, temperature: number): Float32Array {
  const result = new Float32Array(costs.length);
  for (let start = 0; start < costs.length; start += columns) {
    let least = Infinity;
    for (let i = start; i < start + columns; i++) least = Math.min(least, costs[i] as number);
    let sum = 0;
    for (let i = start; i < start + columns; i++) {
      const value = Math.exp((least - (costs[i] as number)) / temperature);
      result[i] = value;
      sum += value;
    }
    for (let i = start; i < start + columns; i++) result[i] = (result[i] as number) / sum;
  }
  return result;
}

/**
 * The official loss, `0.75 · CE(best, label smoothing 0.5) + 0.25 · CE(softmax(10 · score))`, is one cross-entropy against these.
 *
 * @param scores - `[tokens, columns]`, see `overlapGraph`
 */
export function paperTargets(scores: Float32Array, columns: number): Float32Array {
  const { labelShare, smoothing, sharpness } = PAPER;
  const result = softmin(
    scores.map((score) => -score),
    columns,
    1 / sharpness,
  );
  for (let start = 0; start < scores.length; start += columns) {
    let best = start;
    for (let i = start; i < start + columns; i++) if ((scores[i] as number) > (scores[best] as number)) best = i;
    for (let i = start; i < start + columns; i++) {
      const label = smoothing / columns + (i === best ? 1 - smoothing : 0);
      result[i] = labelShare * label + (1 - labelShare) * (result[i] as number);
    }
  }
  return result;
}

/** What each expert's part of a target counts, so that the balanced part of the loss is the same for all. */
function classFactors(
  examples: readonly RouterExample[],
  targets: readonly Float32Array[],
  numExperts: number,
  balance: number,
): Float64Array {
  const mass = new Float64Array(numExperts);
  targets.forEach((rows, index) => {
    const { weight = 1 } = examples[index] as RouterExample;
    for (let i = 0; i < rows.length; i++) {
      const expert = i % numExperts;
      mass[expert] = (mass[expert] as number) + weight * (rows[i] as number);
    }
  });
  const mean = mass.reduce((sum, value) => sum + value, 0) / numExperts;
  return mass.map((value) => (value > 0 && mean > 0 ? (mean / value) ** balance : 1));
}

/** Multiplies each row by its weight: `weight` times the mean of `factors` under the row. */
function weigh(rows: Float32Array, factors: Float64Array, weight: number): void {
  const columns = factors.length;
  for (let start = 0; start < rows.length; start += columns) {
    let factor = 0;
    for (let i = 0; i < columns; i++) factor += (factors[i] as number) * (rows[start + i] as number);
    for (let i = 0; i < columns; i++) rows[start + i] = (rows[start + i] as number) * factor * weight;
  }
}
