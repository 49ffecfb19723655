// A step under construction with its predicted time.

import { NO_WORK, predictStepMs } from "./cost-model.ts";
import { chunkExperts, StepDraft, type Candidate, type ScheduledSequence, type SchedulerState } from "./scheduler.ts";

/** Candidates that would join a step together, and what they add to it. */
export interface Group {
  readonly members: readonly Candidate[];
  readonly newExperts: ReadonlySet<number>;
  readonly addedMs: number;
}

/** Room in a step for a group. */
export interface Room {
  /** Longest time the step may take once the group is added, in ms. */
  readonly maxMs: number;
  /** Places for sequences that the group must leave free. */
  readonly placesKept: number;
}

/** Unlimited room, within the limits of the step. */
export const ANY_ROOM: Room = { maxMs: Infinity, placesKept: 0 };

export class PricedStep {
  readonly #state: SchedulerState;
  readonly #draft: StepDraft;
  readonly #experts = new Set<number>();
  /** Experts of each candidate's chunk. Equal sets are one object, since there are few of them. */
  readonly #expertsOf = new Map<Candidate, ReadonlySet<number>>();
  readonly #setsByKey = new Map<string, ReadonlySet<number>>();
  #ms: number;

  constructor(state: SchedulerState) {
    this.#state = state;
    this.#draft = new StepDraft(state.limits);
    this.#ms = predictStepMs(state.cost, NO_WORK);
  }

  get scheduled(): readonly ScheduledSequence[] {
    return this.#draft.scheduled;
  }

  /** Predicted time of the step in ms. */
  get ms(): number {
    return this.#ms;
  }

  get nowMs(): number {
    return this.#state.nowMs;
  }

  /** Predicts the time of a step of these candidates alone if all experts are in memory. */
  msWithoutLoads(candidates: readonly Candidate[]): number {
    const { fixedMs, msPerExpert } = this.#state.cost;
    const experts = new Set(candidates.flatMap((candidate) => Array.from(this.#allExpertsOf(candidate))));
    return candidates.reduce((sum, candidate) => sum + this.#ownMs(candidate), fixedMs + msPerExpert * experts.size);
  }

  /** Predicts the time of reading the missing bytes of these experts. */
  loadMs(experts: ReadonlySet<number>): number {
    const { cost, missingBytes } = this.#state;
    let bytes = 0;
    for (const expert of experts) bytes += missingBytes[expert] ?? 0;
    return cost.loadMsPerByte * bytes;
  }

  /** Whether all these candidates fit into the rest of the step, whatever time it takes. */
  hasRoomFor(candidates: readonly Candidate[]): boolean {
    const numTokens = candidates.reduce((sum, candidate) => sum + candidate.numTokens, 0);
    return candidates.length <= this.#draft.seqsLeft && numTokens <= this.#draft.tokensLeft;
  }

  has(candidate: Candidate): boolean {
    return this.#draft.has(candidate);
  }

  /** Lists the distinct sets of experts that candidates would add: the empty set, then in order of the candidates. */
  newExpertSets(candidates: readonly Candidate[]): Iterable<ReadonlySet<number>> {
    const needed = new Set(candidates.map((candidate) => this.#allExpertsOf(candidate)));
    const added = new Map<string, ReadonlySet<number>>([["", new Set()]]);
    for (const all of needed) {
      const experts = this.#newOf(all);
      const key = keyOf(experts);
      if (!added.has(key)) added.set(key, experts);
    }
    return added.values();
  }

  /** Makes a group of one candidate; `undefined` if it does not fit the step. */
  groupOf(candidate: Candidate): Group | undefined {
    return this.group([candidate], this.#newOf(this.#allExpertsOf(candidate)), ANY_ROOM);
  }

  /**
   * Groups those of `candidates`, in their order, that together fit the step and need only experts of the step and of
   * `newExperts`; `undefined` if there are none.
   */
  group(
    candidates: readonly Candidate[],
    newExperts: ReadonlySet<number>,
    { maxMs, placesKept }: Room,
  ): Group | undefined {
    const mostMs = maxMs - this.#ms - this.#expertsMs(newExperts);
    let [seqsLeft, tokensLeft] = [this.#draft.seqsLeft - placesKept, this.#draft.tokensLeft];
    let ownMs = 0;
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
      ownMs += ms;
    }
    if (members.length === 0) return undefined;
    return { members, newExperts: needed, addedMs: ownMs + this.#expertsMs(needed) };
  }

  add({ members, newExperts, addedMs }: Group): void {
    for (const candidate of members) this.#draft.add(candidate);
    for (const expert of newExperts) this.#experts.add(expert);
    this.#ms += addedMs;
  }

  /** Finds the distinct experts of a candidate's chunk. */
  #allExpertsOf(candidate: Candidate): ReadonlySet<number> {
    const known = this.#expertsOf.get(candidate);
    if (known) return known;
    const experts = new Set(chunkExperts(candidate));
    const key = keyOf(experts);
    const shared = this.#setsByKey.get(key) ?? experts;
    this.#setsByKey.set(key, shared);
    this.#expertsOf.set(candidate, shared);
    return shared;
  }

  #newOf(experts: ReadonlySet<number>): ReadonlySet<number> {
    return new Set(Array.from(experts).filter((expert) => !this.#experts.has(expert)));
  }

  /** Whether each of these is an expert of the step or one of `allowed`. */
  #hasOnly(experts: ReadonlySet<number>, allowed: ReadonlySet<number>): boolean {
    for (const expert of experts) {
      if (!this.#experts.has(expert) && !allowed.has(expert)) return false;
    }
    return true;
  }

  #expertsMs(experts: ReadonlySet<number>): number {
    return this.#state.cost.msPerExpert * experts.size + this.loadMs(experts);
  }

  /** Predicts the time that a candidate adds, without its experts. */
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
