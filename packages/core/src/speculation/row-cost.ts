// What a drafted token adds to a step, measured. The cost model has one time per token, mostly that of prompts, whose
// tokens need no logits; and the first rows of a small step cost less than those of a large one.

import type { CostModel, StepWork } from "../scheduling/cost-model.ts";

/** Decayed sums over steps of similar size: of drafted tokens, and of times beyond what the cost model predicts. */
interface StepSums {
  readonly steps: number;
  readonly rows: number;
  readonly ms: number;
  readonly rowsRows: number;
  readonly rowsMs: number;
}

/** Measured steps, by the binary logarithm of their tokens without drafts. Plain data. */
export interface RowCosts {
  readonly sums: readonly StepSums[];
}

/** Costs before any step. */
export const NO_ROW_COSTS: RowCosts = { sums: [] };

/** A step that has run, without prompts. */
export interface MeasuredDrafts {
  /** Number of tokens without drafts. */
  readonly tokens: number;
  readonly draftTokens: number;
  readonly durationMs: number;
  /** Prediction for the step without drafts. */
  readonly predictedMs: number;
}

const NO_SUMS: StepSums = { steps: 0, rows: 0, ms: 0, rowsRows: 0, rowsMs: 0 };
// A load that changes shows within some tens of steps.
const KEEP = 0.98;
// The weight of the assumption before any measurement, in squares of drafted tokens.
const PRIOR_WEIGHT = 40;
// Rows with logits cost about twice as much as those of a prompt.
const PRIOR_FACTOR = 2;
const [LEAST_FACTOR, MOST_FACTOR] = [0.3, 6];
// A step that takes this many times as long was disturbed: a garbage collection, another process.
const MOST_RATIO = 3;

/** Adds a step. Ignores those that were disturbed. */
export function refineRowCosts(costs: RowCosts, step: MeasuredDrafts): RowCosts {
  const { tokens, draftTokens, durationMs, predictedMs } = step;
  if (tokens < 1 || !(durationMs > 0) || durationMs > MOST_RATIO * (predictedMs + draftTokens)) return costs;
  const place = sizeOf(tokens);
  const before = costs.sums[place] ?? NO_SUMS;
  const ms = durationMs - predictedMs;
  const after: StepSums = {
    steps: before.steps * KEEP + 1,
    rows: before.rows * KEEP + draftTokens,
    ms: before.ms * KEEP + ms,
    rowsRows: before.rowsRows * KEEP + draftTokens ** 2,
    rowsMs: before.rowsMs * KEEP + draftTokens * ms,
  };
  const sums = Array.from(
    { length: Math.max(place + 1, costs.sums.length) },
    (_, index) => costs.sums[index] ?? NO_SUMS,
  );
  return { sums: sums.with(place, after) };
}

/**
 * Computes the time that each drafted token adds to a step: the slope of the measured times over the number of drafted
 * tokens, which shrinks towards twice the cost model's time per token.
 *
 * @param tokens - number of the step's tokens without drafts
 */
export function rowMsOf(costs: RowCosts, tokens: number, { msPerToken }: CostModel): number {
  const { steps, rows, ms, rowsRows, rowsMs } = costs.sums[sizeOf(tokens)] ?? NO_SUMS;
  const prior = PRIOR_FACTOR * msPerToken;
  const mean = steps > 0 ? rows / steps : 0;
  const slope = (rowsMs - mean * ms + PRIOR_WEIGHT * prior) / (rowsRows - mean * rows + PRIOR_WEIGHT);
  return Math.min(MOST_FACTOR * msPerToken, Math.max(LEAST_FACTOR * msPerToken, slope));
}

/** Changes a cost model's time per token to that of drafted tokens, and keeps its prediction for a step without any. */
export function withRowMs(cost: CostModel, rowMs: number, { tokens }: StepWork): CostModel {
  return { ...cost, msPerToken: rowMs, fixedMs: cost.fixedMs + (cost.msPerToken - rowMs) * tokens };
}

function sizeOf(tokens: number): number {
  return Math.floor(Math.log2(Math.max(1, tokens)));
}
