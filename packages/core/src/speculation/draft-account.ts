// What drafts of a sequence may cost. The idea of a bounded loss is that of Cascade (arXiv 2506.20675).

import { predictStepMs, type CostModel, type StepWork } from "../scheduling/cost-model.ts";

/** Budget of a sequence's drafts. Plain data. */
export interface DraftAccount {
  /** Time that drafts may add now, at most `mostMs`; below 0 after a draft that took longer than predicted. */
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
/** Rows that may be lost before the first success. */
const FIRST_ROWS = 4;
/** Rows that may be lost after many successes. */
const MOST_ROWS = 32;

/** Opens the account of a sequence. */
export function newDraftAccount({ msPerToken }: CostModel): DraftAccount {
  return { balanceMs: FIRST_ROWS * msPerToken, mostMs: MOST_ROWS * msPerToken };
}

/**
 * Computes what a draft may add to the next step. If no draft adds more, the drafts of a sequence lose less than 1.5 %
 * of its decode time plus the time of four rows, whatever comes; and from any moment on, less than 1.5 % plus the
 * time of 32 rows, however much they saved before.
 */
export function allowanceMs({ balanceMs }: DraftAccount): number {
  return balanceMs;
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
  const shareMs = predictStepMs(cost, { ...step, missingBytes: 0 }) / Math.max(1, step.tokens);
  const changeMs = (LOSS_SHARE + accepted) * shareMs - draftTokens * cost.msPerToken - drafterMs;
  // A drafter may take longer than predicted, and other processes may change the cost between the plan and the charge.
  const balanceMs = Math.max(-account.mostMs, account.balanceMs + changeMs);
  return { ...account, balanceMs: Math.min(account.mostMs, balanceMs) };
}
