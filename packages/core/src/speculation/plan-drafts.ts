// How many tokens of each sequence's draft a step runs.

import { predictStepMs, type CostModel, type StepWork } from "../scheduling/cost-model.ts";

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
