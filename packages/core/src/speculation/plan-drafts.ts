// Lengths of drafts: the number of tokens of each sequence's draft that a step runs.

import { type CostModel, predictStepMs, type StepWork } from "../scheduling/cost-model.ts";

/** A draft as the plan sees it. */
export interface PlannedDraft {
  /** Chance of each token to be accepted if all before it are, in [0, 1]. */
  readonly chances: readonly number[];
  /** Expert of each token. The draft ends where this ends. */
  readonly experts: ArrayLike<number>;
  /** Longest time that the draft may add to the step. */
  readonly allowanceMs: number;
}

/** A step and the drafts that may join it. */
export interface DraftPlanInput {
  /** The step without drafts. */
  readonly step: StepWork;
  /** Experts that the step needs anyway. */
  readonly experts: ReadonlySet<number>;
  /** Number of further tokens that fit the step. */
  readonly tokensLeft: number;
  readonly cost: CostModel;
  /** A draft, possibly empty, of each sequence. */
  readonly drafts: readonly PlannedDraft[];
  /** Smallest factor by which drafts must raise the step's expected tokens per millisecond to run at all. @default 1 */
  readonly leastGain?: number | undefined;
}

/** The next token of a draft that may join the step. */
interface NextToken {
  readonly draft: number;
  /** Number of its tokens that may run at most. */
  readonly most: number;
  /** Chance that this token and all before it are accepted. */
  readonly chance: number;
}

// Chances and times are estimates, so a gain below this share is none.
const ROUNDING = 1e-12;
// A row of one small request pays from about this chance on. Replays hardly differ between 0.1 and 0.3.
const LEAST_CHANCE = 0.2;

/**
 * Chooses how many tokens of each draft run, so that the step's expected tokens per predicted millisecond are the most
 * that is possible. A draft ends before a token whose expert is not in the step, which reads its experts anyway, and
 * where its time would exceed its allowance.
 *
 * @returns the length of each draft, from 0
 */
export function planDrafts(input: DraftPlanInput): readonly number[] {
  const { step, cost, drafts, leastGain = 1 } = input;
  const lengths = drafts.map(() => 0);
  const next = drafts.map((draft, index) => nextToken(draft, { draft: index, most: mostTokens(draft, input), at: 0 }));
  const rowMs = cost.msPerToken;
  let tokensLeft = input.tokensLeft;
  const aloneMs = predictStepMs(cost, step);
  let stepMs = aloneMs;
  let tokens = step.tokens;
  // All rows cost the same and chances only fall along a draft, so the best n rows are the n most likely ones. The
  // rate rises while the next chance exceeds the time of a row times the rate, and never again after that.
  while (tokensLeft >= 1) {
    const best = mostLikely(next);
    if (!best || best.chance * stepMs <= rowMs * tokens * (1 + ROUNDING)) break;
    const draft = drafts[best.draft];
    const length = (lengths[best.draft] ?? 0) + 1;
    lengths[best.draft] = length;
    next[best.draft] = draft && nextToken(draft, { ...best, at: length });
    stepMs += rowMs;
    tokens += best.chance;
    tokensLeft--;
  }
  const isWorthIt = tokens * aloneMs >= leastGain * step.tokens * stepMs;
  return leastGain === 1 || isWorthIt ? lengths : drafts.map(() => 0);
}

/**
 * Chooses between drafts of one sequence: the one with the most expected tokens among those that are likely enough to
 * run.
 *
 * @param chances - of the tokens of each draft, as in `PlannedDraft`
 * @returns the index of the best draft, the first among equals; -1 if there is none
 */
export function chooseDraft(chances: readonly (readonly number[])[]): number {
  const worths = chances.map(worthOf);
  return worths.indexOf(Math.max(...worths));
}

/** Computes how many tokens of a draft are accepted on average. @param chances - as in `PlannedDraft` */
export function expectedTokens(chances: readonly number[]): number {
  let [chance, sum] = [1, 0];
  for (const one of chances) sum += chance *= one;
  return sum;
}

/** Sums what the chance of each token exceeds `LEAST_CHANCE` by, given those before it. */
function worthOf(chances: readonly number[]): number {
  let [worth, chance] = [0, 1];
  for (const one of chances) worth += Math.max(0, (chance *= one) - LEAST_CHANCE);
  return worth;
}

/** Counts the first tokens that may run, whatever their chances. */
function mostTokens(draft: PlannedDraft, { experts, cost }: DraftPlanInput): number {
  const { chances, allowanceMs } = draft;
  // An allowance is often a multiple of a row's time, and dividing must not lose a row.
  const paid = cost.msPerToken > 0 ? Math.floor((allowanceMs / cost.msPerToken) * (1 + ROUNDING)) : Infinity;
  const most = Math.min(chances.length, draft.experts.length, Math.max(0, paid));
  for (let at = 0; at < most; at++) {
    const expert = draft.experts[at] ?? -1;
    if (!experts.has(expert)) return at;
  }
  return most;
}

function nextToken(
  { chances }: PlannedDraft,
  { draft, most, chance = 1, at }: { draft: number; most: number; chance?: number; at: number },
): NextToken | undefined {
  return at < most ? { draft, most, chance: chance * (chances[at] ?? 0) } : undefined;
}

function mostLikely(next: readonly (NextToken | undefined)[]): NextToken | undefined {
  let best: NextToken | undefined;
  for (const token of next) if (token && (!best || token.chance > best.chance)) best = token;
  return best;
}

/**
 * Source of a draft: a text that the caller expects ("prediction"), tokens that a grammar forces ("grammar"), an
 * earlier occurrence of the last tokens ("context"), candidates that earlier steps computed ("recycled"), or a draft
 * head ("head").
 */
export type DraftSource = "prediction" | "grammar" | "context" | "recycled" | "head";

/** Tokens that may follow a sequence's last token. A step runs them as further rows and keeps those that are right. */
export interface Draft {
  readonly source: DraftSource;
  readonly tokenIds: readonly number[];
  /**
   * Class of evidence of each token, a small integer from 0. Tokens of one source with equal classes have similar
   * chances of being accepted once all tokens before them are.
   */
  readonly classes: readonly number[];
}

// Measured time that a drafted token adds to a step. The cost model has one time per token, mostly that of prompts,
// whose tokens need no logits; and the first rows of a small step cost less than those of a large one.

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
const PRIOR_WEIGHT = 10;
const [LEAST_COST, MOST_COST] = [0.3, 6];
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
 * tokens, which shrinks towards the cost model's time per token.
 *
 * @param tokens - number of the step's tokens without drafts
 */
export function rowMsOf(costs: RowCosts, tokens: number, { msPerToken }: CostModel): number {
  const { steps, rows, ms, rowsRows, rowsMs } = costs.sums[sizeOf(tokens)] ?? NO_SUMS;
  // Rows have logits, which costs more than a prompt's tokens, and weights are read once, which costs less.
  const prior = msPerToken;
  const mean = steps > 0 ? rows / steps : 0;
  const slope = (rowsMs - mean * ms + PRIOR_WEIGHT * prior) / (rowsRows - mean * rows + PRIOR_WEIGHT);
  return Math.min(MOST_COST * msPerToken, Math.max(LEAST_COST * msPerToken, slope));
}

/** Changes a cost model's time per token to that of drafted tokens, and keeps its prediction for a step without any. */
export function withRowMs(cost: CostModel, rowMs: number, { tokens }: StepWork): CostModel {
  return { ...cost, msPerToken: rowMs, fixedMs: cost.fixedMs + (cost.msPerToken - rowMs) * tokens };
}

function sizeOf(tokens: number): number {
  return Math.floor(Math.log2(Math.max(1, tokens)));
}

// Calibration of chances. Of several proposals the one with the best chances runs, so that the chances of those that
// run are too high on average.

/** Drafted tokens that ran: how many were expected to be accepted, and how many were. Older ones count less. */
export interface DraftCalibration {
  readonly expected: number;
  readonly accepted: number;
}

const PRIOR_TOKENS = 10;
const PRIOR_FACTOR = 0.95;
const MEMORY_TOKENS = 400;
const [LEAST_FACTOR, MOST_FACTOR] = [0.3, 1.1];

/** Calibration before any draft. */
export const NO_CALIBRATION: DraftCalibration = { expected: 0, accepted: 0 };

/** Adds a draft that ran. @param expected - sum of the chances of its tokens to be accepted */
export function calibrate(calibration: DraftCalibration, expected: number, accepted: number): DraftCalibration {
  const keep = Math.exp(-expected / MEMORY_TOKENS);
  return { expected: calibration.expected * keep + expected, accepted: calibration.accepted * keep + accepted };
}

/** Computes by which factor the chance of a draft's first token is changed. */
export function calibrationFactor({ expected, accepted }: DraftCalibration): number {
  const factor = (accepted + PRIOR_FACTOR * PRIOR_TOKENS) / (expected + PRIOR_TOKENS);
  return Math.min(MOST_FACTOR, Math.max(LEAST_FACTOR, factor));
}

// Budgets of drafts, for each sequence. The idea of a bounded loss is that of Cascade (arXiv 2506.20675).

/** Budget of a sequence's drafts. Plain data. */
export interface DraftAccount {
  /**
   * Time that a draft may add to the next step, at most `mostMs`; below 0 after one that took longer than predicted.
   * If no draft adds more, the drafts of a sequence lose less than 1.5 % of its decode time plus the time of four
   * rows or its share of one step, and from any moment on less than 1.5 % plus that of 32 rows or eight shares, however
   * much they saved before.
   */
  readonly balanceMs: number;
  readonly mostMs: number;
}

/** A step of a sequence with its draft. */
export interface DraftCharge {
  /** The step without drafts. */
  readonly step: StepWork;
  readonly cost: CostModel;
  /** Number of draft tokens of the sequence that ran. */
  readonly draftTokens: number;
  /** Number of them that were right. */
  readonly accepted: number;
  /** Time that the drafter took for the sequence. @default 0 */
  readonly drafterMs?: number | undefined;
}

/** Share of a sequence's decode time that its drafts may lose. */
const LOSS_SHARE = 0.015;
/** Rows, or shares of a step, that may be lost before the first success: rows alone are too cheap for a long step. */
const FIRST = { rows: 4, shares: 1 };
/** Rows, or shares of a step, that may be lost after many successes. */
const MOST = { rows: 32, shares: 8 };

/** Opens the account of a sequence. @param step - a step like those of the sequence, without drafts */
export function newDraftAccount(cost: CostModel, step: StepWork): DraftAccount {
  const shareMs = shareMsOf(cost, step);
  const limitMs = ({ rows, shares }: typeof FIRST): number => Math.max(rows * cost.msPerToken, shares * shareMs);
  return { balanceMs: limitMs(FIRST), mostMs: limitMs(MOST) };
}

function shareMsOf(cost: CostModel, step: StepWork): number {
  return predictStepMs(cost, { ...step, missingBytes: 0 }) / Math.max(1, step.tokens);
}

/**
 * Charges the predicted time that a step's draft added, and credits what its accepted tokens save. An accepted token
 * saves the sequence's share of a step: the step's time divided by its tokens.
 *
 * @returns the new account
 */
export function chargeDraft(
  account: DraftAccount,
  { step, cost, draftTokens, accepted, drafterMs = 0 }: DraftCharge,
): DraftAccount {
  const shareMs = shareMsOf(cost, step);
  const changeMs = (LOSS_SHARE + accepted) * shareMs - draftTokens * cost.msPerToken - drafterMs;
  // A drafter may take longer than predicted, and other processes may change the cost between the plan and the charge.
  const balanceMs = Math.max(-account.mostMs, account.balanceMs + changeMs);
  return { ...account, balanceMs: Math.min(account.mostMs, balanceMs) };
}
