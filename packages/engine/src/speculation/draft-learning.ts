// What an engine learns from its drafts: how often they are right, what they cost, and which sequences have only weak
// ones.

import {
  allowanceMs,
  calibrate,
  calibrationFactor,
  chargeDraft,
  draftChances,
  newAcceptance,
  newDraftAccount,
  NO_CALIBRATION,
  NO_ROW_COSTS,
  observeDraft,
  predictStepMs,
  refineRowCosts,
  rowMsOf,
  withRowMs,
  type Acceptance,
  type CostModel,
  type Draft,
  type DraftAccount,
  type DraftCalibration,
  type DraftSource,
  type StepWork,
} from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";
import type { StepBeforeDrafts } from "./drafter.ts";

/** Result of a proposal. */
export interface ProposalOutcome {
  readonly draft: Draft;
  /** Estimated chance of its first token. */
  readonly firstChance: number;
  /** Number of its first tokens that ran. */
  readonly draftTokens: number;
  /** Number of those that were expected to be accepted. */
  readonly expectedTokens: number;
  readonly drafterMs: number;
  /** Number of tokens that the sequence got. */
  readonly newTokens: number;
  /** Number of the draft's first tokens that are the sequence's own, whether they ran or not. */
  readonly numRight: number;
}

/** Experience with a sequence's drafts. */
interface DraftRecord {
  acceptance: Acceptance;
  account: DraftAccount;
  /** Number of proposals in a row whose first token was not likely enough to run. */
  numWeak: number;
  /** Step before which there is no proposal. */
  nextStep: number;
}

// Proposals take time, more of it the more sequences a step has, and pay the more rarely.
const [LEAST_REST_STEPS, MOST_REST_STEPS] = [3, 8];
// Each time that as many plans have run nothing, the engine rests for one more step.
const IDLE_PLANS = 4;

export class DraftLearning {
  #acceptance = newAcceptance("engine");
  readonly #calibrations = new Map<DraftSource, DraftCalibration>();
  #rowCosts = NO_ROW_COSTS;
  readonly #records = new Map<Sequence, DraftRecord>();
  #steps = 0;
  /** Number of plans in a row that ran nothing, and the step before which there is no other plan. */
  #numIdlePlans = 0;
  #nextPlan = 0;

  /** Begins a step. */
  begin(): void {
    this.#steps++;
  }

  /** Describes a step, with what a drafted token adds to one of this size. */
  stepOf(cost: CostModel, work: StepWork): StepBeforeDrafts {
    return { cost: withRowMs(cost, rowMsOf(this.#rowCosts, work.tokens, cost), work), work };
  }

  /** Whether nothing is proposed in this step, since the last plans ran nothing. */
  get isResting(): boolean {
    return this.#nextPlan > this.#steps;
  }

  /** Learns whether a plan ran any draft. */
  planned(hasDrafts: boolean): void {
    this.#numIdlePlans = hasDrafts ? 0 : this.#numIdlePlans + 1;
    this.#nextPlan = this.#steps + 1 + Math.min(MOST_REST_STEPS, Math.floor(this.#numIdlePlans / IDLE_PLANS));
  }

  /** Whether nothing is proposed for a sequence in this step, since its last proposals were too weak. */
  isWeak(sequence: Sequence): boolean {
    return (this.#records.get(sequence)?.nextStep ?? 0) > this.#steps;
  }

  /** Computes how long a draft of the sequence may take. */
  allowanceMs(sequence: Sequence, cost: CostModel): number {
    return allowanceMs(this.#recordOf(sequence, cost).account);
  }

  /** Estimates the chance of each token of a draft, if those before it are accepted. */
  chances(sequence: Sequence, draft: Draft): readonly number[] {
    const own = this.#records.get(sequence)?.acceptance ?? newAcceptance("sequence");
    const [first = 0, ...others] = draftChances(this.#acceptance, own, draft);
    const calibration = this.#calibrations.get(draft.source) ?? NO_CALIBRATION;
    return [Math.min(1, first * calibrationFactor(calibration)), ...others];
  }

  /** Learns from a step of a sequence. */
  learn(sequence: Sequence, step: StepBeforeDrafts, outcome: ProposalOutcome): void {
    const { cost, work } = step;
    const record = this.#recordOf(sequence, cost);
    const { draft, firstChance, draftTokens, expectedTokens, drafterMs, newTokens, numRight } = outcome;
    const accepted = Math.min(draftTokens, numRight);
    record.account = chargeDraft(record.account, { step: work, cost, draftTokens, drafterMs, accepted });
    record.numWeak = firstChance < leastChance(step) ? record.numWeak + 1 : 0;
    record.nextStep = this.#steps + 1 + Math.min(restSteps(work.tokens), Math.floor(record.numWeak / 2));
    if (draftTokens > 0) {
      const known = this.#calibrations.get(draft.source) ?? NO_CALIBRATION;
      this.#calibrations.set(draft.source, calibrate(known, expectedTokens, accepted));
    }
    const result = { verified: newTokens, accepted: numRight };
    this.#acceptance = observeDraft(this.#acceptance, draft, result);
    record.acceptance = observeDraft(record.acceptance, draft, result);
  }

  /** Learns how long a step without prompts took. */
  complete({ cost, work }: StepBeforeDrafts, draftTokens: number, durationMs: number): void {
    const measured = { tokens: work.tokens, draftTokens, durationMs, predictedMs: predictStepMs(cost, work) };
    this.#rowCosts = refineRowCosts(this.#rowCosts, measured);
  }

  forget(sequence: Sequence): void {
    this.#records.delete(sequence);
  }

  #recordOf(sequence: Sequence, cost: CostModel): DraftRecord {
    const known = this.#records.get(sequence);
    if (known) return known;
    const account = newDraftAccount(cost);
    const record = { acceptance: newAcceptance("sequence"), account, numWeak: 0, nextStep: 0 };
    this.#records.set(sequence, record);
    return record;
  }
}

/** Computes the chance from which on one drafted token raises a step's tokens per millisecond. */
export function leastChance({ cost, work }: StepBeforeDrafts): number {
  return (cost.msPerToken * work.tokens) / predictStepMs(cost, work);
}

/** Computes the longest rest of a sequence in a step of this many tokens. */
function restSteps(tokens: number): number {
  return Math.min(MOST_REST_STEPS, LEAST_REST_STEPS + Math.floor(tokens / 2));
}
