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
  /** Of each candidate's chunk; asked for again and again. Equal sets are one object, of which there are few. */
  readonly #expertsOf = new Map<Candidate, ReadonlySet<number>>();
  readonly #setsByKey = new Map<string, ReadonlySet<number>>();
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

  /** What a step of these candidates alone is predicted to take where all experts are in memory. */
  msWithoutLoads(candidates: readonly Candidate[]): number {
    const { fixedMs, msPerExpert } = this.#state.cost;
    const experts = new Set(candidates.flatMap((candidate) => Array.from(this.#allExpertsOf(candidate))));
    return candidates.reduce((sum, candidate) => sum + this.#ownMs(candidate), fixedMs + msPerExpert * experts.size);
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
    return this.#newOf(this.#allExpertsOf(candidate));
  }

  /** The distinct sets of experts that candidates would bring; none first, then in order of who would bring them. */
  newExpertSets(candidates: readonly Candidate[]): Iterable<ReadonlySet<number>> {
    const needed = new Set(candidates.map((candidate) => this.#allExpertsOf(candidate)));
    const brought = new Map<string, ReadonlySet<number>>([["", new Set()]]);
    for (const all of needed) {
      const experts = this.#newOf(all);
      const key = keyOf(experts);
      if (!brought.has(key)) brought.set(key, experts);
    }
    return brought.values();
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
    const suits = new Map<ReadonlySet<number>, boolean>();
    for (const candidate of candidates) {
      if (seqsLeft <= 0) break;
      if (candidate.numTokens > tokensLeft) continue;
      const all = this.#allExpertsOf(candidate);
      let isSuited = suits.get(all);
      if (isSuited === undefined) suits.set(all, (isSuited = this.#hasOnly(all, newExperts)));
      if (!isSuited) continue;
      const ms = this.#ownMs(candidate);
      if (ownMs + ms > mostMs) continue;
      members.push(candidate);
      for (const expert of all) if (!this.#experts.has(expert)) needed.add(expert);
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
    const known = this.#expertsOf.get(candidate);
    if (known) return known;
    const { nextExperts } = candidate.sequence;
    const experts = new Set<number>();
    for (let index = 0; index < candidate.numTokens; index++) experts.add(nextExperts[index] ?? 0);
    const key = keyOf(experts);
    const shared = this.#setsByKey.get(key) ?? experts;
    this.#setsByKey.set(key, shared);
    this.#expertsOf.set(candidate, shared);
    return shared;
  }

  #newOf(experts: ReadonlySet<number>): ReadonlySet<number> {
    return new Set(Array.from(experts).filter((expert) => !this.#experts.has(expert)));
  }

  /** Whether these are all experts of the step, or some of `allowed`. */
  #hasOnly(experts: ReadonlySet<number>, allowed: ReadonlySet<number>): boolean {
    for (const expert of experts) {
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

function keyOf(experts: ReadonlySet<number>): string {
  if (experts.size <= 1) return Array.from(experts).join("");
  return Array.from(experts)
    .toSorted((a, b) => a - b)
    .join();
}
