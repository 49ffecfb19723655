// A step that is being put together, and what it is predicted to take.

import type { Candidate } from "./candidates.ts";
import { predictStepMs, type StepWork } from "./cost-model.ts";
import type { ScheduledSequence, SchedulerState } from "./scheduler.ts";
import { StepDraft } from "./step-draft.ts";

/** Candidates that would come into a step together, and what is new to the step with them. */
export interface Group {
  readonly members: readonly Candidate[];
  readonly newExperts: ReadonlySet<number>;
  readonly numTokens: number;
  readonly addedMs: number;
}

const NOTHING: StepWork = { tokens: 0, distinctExperts: 0, cachedTokens: 0, missingBytes: 0 };

export class PricedStep {
  readonly #state: SchedulerState;
  readonly #draft: StepDraft;
  readonly #experts = new Set<number>();
  /** Of each candidate's chunk; asked for again and again. */
  readonly #expertsOf = new Map<Candidate, ReadonlySet<number>>();
  #ms: number;

  constructor(state: SchedulerState) {
    this.#state = state;
    this.#draft = new StepDraft(state.limits);
    this.#ms = predictStepMs(state.cost, NOTHING);
  }

  get scheduled(): readonly ScheduledSequence[] {
    return this.#draft.scheduled;
  }

  /** That the step is predicted to take. */
  get ms(): number {
    return this.#ms;
  }

  has(candidate: Candidate): boolean {
    return this.#draft.has(candidate);
  }

  /** The experts that a candidate needs and the step does not have yet. */
  newExpertsOf(candidate: Candidate): ReadonlySet<number> {
    const { sequence, numTokens } = candidate;
    let experts = this.#expertsOf.get(candidate);
    if (!experts) {
      const { nextExperts } = sequence;
      experts = new Set(Array.from({ length: numTokens }, (_, index) => nextExperts[index] ?? 0));
      this.#expertsOf.set(candidate, experts);
    }
    return new Set(Array.from(experts).filter((expert) => !this.#experts.has(expert)));
  }

  /**
   * Of `candidates`, in their order, those that the step has room for together and that need none but its experts and
   * some of `newExperts`; `undefined` when there are none.
   * @param maxMs - that the step may take with them
   */
  group(candidates: readonly Candidate[], newExperts: ReadonlySet<number>, maxMs: number): Group | undefined {
    const mostMs = maxMs - this.#ms - this.#expertsMs(newExperts);
    let [seqsLeft, tokensLeft] = [this.#draft.seqsLeft, this.#draft.tokensLeft];
    let [numTokens, ownMs] = [0, 0];
    const members: Candidate[] = [];
    const needed = new Set<number>();
    for (const candidate of candidates) {
      if (seqsLeft === 0) break;
      const experts = this.newExpertsOf(candidate);
      if (candidate.numTokens > tokensLeft || !isWithin(experts, newExperts)) continue;
      const ms = this.#ownMs(candidate);
      if (ownMs + ms > mostMs) continue;
      members.push(candidate);
      for (const expert of experts) needed.add(expert);
      seqsLeft--;
      tokensLeft -= candidate.numTokens;
      numTokens += candidate.numTokens;
      ownMs += ms;
    }
    if (members.length === 0) return undefined;
    return { members, newExperts: needed, numTokens, addedMs: ownMs + this.#expertsMs(needed) };
  }

  take({ members, newExperts, addedMs }: Group): void {
    for (const candidate of members) this.#draft.take(candidate);
    for (const expert of newExperts) this.#experts.add(expert);
    this.#ms += addedMs;
  }

  #expertsMs(experts: ReadonlySet<number>): number {
    const { cost, missingBytes } = this.#state;
    let sum = 0;
    for (const expert of experts) sum += cost.msPerExpert + cost.loadMsPerByte * (missingBytes[expert] ?? 0);
    return sum;
  }

  /** Without its experts. */
  #ownMs({ numTokens, sequence }: Candidate): number {
    const { msPerToken, msPerCachedToken } = this.#state.cost;
    return msPerToken * numTokens + msPerCachedToken * sequence.numComputedTokens;
  }
}

function isWithin(experts: ReadonlySet<number>, allowed: ReadonlySet<number>): boolean {
  for (const expert of experts) if (!allowed.has(expert)) return false;
  return true;
}
