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

/** What a step has for a group. */
export interface Room {
  /** That the step may take with it. */
  readonly maxMs: number;
  /** Places for sequences that others are to have. */
  readonly placesKept: number;
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

  /** Of them, what every step takes. */
  get fixedMs(): number {
    return this.#state.cost.fixedMs;
  }

  /** That reading what is missing of these experts takes. */
  loadMs(experts: ReadonlySet<number>): number {
    const { cost, missingBytes } = this.#state;
    let bytes = 0;
    for (const expert of experts) bytes += missingBytes[expert] ?? 0;
    return cost.loadMsPerByte * bytes;
  }

  /** Whether these fit together into what is left of the step, whatever time it takes. */
  hasRoomFor(candidates: readonly Candidate[]): boolean {
    const numTokens = candidates.reduce((sum, candidate) => sum + candidate.numTokens, 0);
    return candidates.length <= this.#draft.seqsLeft && numTokens <= this.#draft.tokensLeft;
  }

  has(candidate: Candidate): boolean {
    return this.#draft.has(candidate);
  }

  /** The experts that a candidate needs and the step does not have yet. */
  newExpertsOf(candidate: Candidate): ReadonlySet<number> {
    return new Set(Array.from(this.#allExpertsOf(candidate)).filter((expert) => !this.#experts.has(expert)));
  }

  /**
   * Of `candidates`, in their order, those that the step has room for together and that need none but its experts and
   * some of `newExperts`; `undefined` when there are none.
   */
  group(
    candidates: readonly Candidate[],
    newExperts: ReadonlySet<number>,
    { maxMs, placesKept }: Room,
  ): Group | undefined {
    const mostMs = maxMs - this.#ms - this.#expertsMs(newExperts);
    let [seqsLeft, tokensLeft] = [this.#draft.seqsLeft - placesKept, this.#draft.tokensLeft];
    let [numTokens, ownMs] = [0, 0];
    const members: Candidate[] = [];
    const needed = new Set<number>();
    for (const candidate of candidates) {
      if (seqsLeft <= 0) break;
      if (candidate.numTokens > tokensLeft || !this.#needsOnly(candidate, newExperts)) continue;
      const ms = this.#ownMs(candidate);
      if (ownMs + ms > mostMs) continue;
      members.push(candidate);
      for (const expert of this.#allExpertsOf(candidate)) if (!this.#experts.has(expert)) needed.add(expert);
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

  /** Of its chunk. */
  #allExpertsOf(candidate: Candidate): ReadonlySet<number> {
    let experts = this.#expertsOf.get(candidate);
    if (!experts) {
      const { nextExperts } = candidate.sequence;
      experts = new Set(Array.from({ length: candidate.numTokens }, (_, index) => nextExperts[index] ?? 0));
      this.#expertsOf.set(candidate, experts);
    }
    return experts;
  }

  /** Whether a candidate needs no experts but the step's own and some of `allowed`. */
  #needsOnly(candidate: Candidate, allowed: ReadonlySet<number>): boolean {
    for (const expert of this.#allExpertsOf(candidate)) {
      if (!this.#experts.has(expert) && !allowed.has(expert)) return false;
    }
    return true;
  }

  #expertsMs(experts: ReadonlySet<number>): number {
    return this.#state.cost.msPerExpert * experts.size + this.loadMs(experts);
  }

  /** Without its experts. */
  #ownMs({ numTokens, sequence }: Candidate): number {
    const { msPerToken, msPerCachedToken } = this.#state.cost;
    return msPerToken * numTokens + msPerCachedToken * sequence.numComputedTokens;
  }
}
