// Scheduling by the predicted time of a step. Sequences that need the same expert share its cost, so the scheduler
// chooses experts.

import { NO_WORK, predictStepMs } from "./cost-model.ts";
import {
  chunkCandidates,
  chunkExperts,
  DEFAULT_MAX_DELAY_MS,
  longestOverdue,
  priorityClasses,
  StepDraft,
  type Candidate,
  type Scheduler,
  type SchedulerState,
} from "./scheduler.ts";

/** Options of `costAware`. Times in ms. */
export interface CostAwareOptions {
  /** Longest wait, after which a sequence goes first. @default 500 */
  readonly maxDelayMs?: number | undefined;
  /** Longest time of a step with prefill while other sequences decode. @default 250 */
  readonly maxStepMs?: number | undefined;
}

/** The part of a step that is decoding, or the part that is prefill. */
interface KindShare {
  worth: number;
  /** Time as if the step were for this kind alone: the fixed time of a step plus what the kind added. */
  ms: number;
}

// Sums of the same terms in different orders are equal up to this.
const ROUNDING = 1e-9;
// Largest number of prefill chunks that are compared; later arrivals wait for their turn. A step holds a few of them.
const MAX_COMPARED = 64;
// A sequence with this many tokens is worth half as much as one with none: latency is reported per token, so a step's
// wait costs a short answer more, and a sequence that has had many tokens probably has many to come.
const HALF_WORTH_TOKENS = 8;
// A sequence's worth grows with (1 + steps waited) to this power. At 0, rare experts wait long where they would cost
// little; at 1, they are loaded for single tokens when memory is short.
const WAITING_POWER = 0.25;
// Share of a step's places that decodes leave free for prefill.
const PREFILL_SHARE = 0.25;
const NO_LOAD_IS_FREE = -1;

/** Candidates that would join a step together, and what they add to it. */
interface Group {
  readonly members: readonly Candidate[];
  readonly newExperts: ReadonlySet<number>;
  readonly addedMs: number;
}

interface Room {
  /** Longest time the step may take once the group is added, in ms. */
  readonly maxMs: number;
  /** Places for sequences that the group must leave free. */
  readonly placesKept: number;
  /** Experts whose loading takes at most this long join the step without being compared. */
  readonly freeLoadMs: number;
}

/** Unlimited room, within the limits of the step. */
const ANY_ROOM: Room = { maxMs: Infinity, placesKept: 0, freeLoadMs: NO_LOAD_IS_FREE };

/**
 * Adds experts to the step as long as their tokens' worth per predicted millisecond does not lower the worth per
 * millisecond of the step, separately for prefill and for decodes. A token is worth more the fewer tokens its sequence
 * has had and the longer it has waited; after `maxDelayMs` a sequence goes first. A group that lowers the rate would
 * delay the other sequences, in total, for longer than leaving it out delays its own.
 *
 * If there is room for all sequences, none is left out to save time that has to be spent later: an expert must then be
 * worth its load only if the load takes longer than a step of all sequences without loads. Alternating such experts,
 * some steps each, saves loads and costs steps.
 *
 * A sequence that needs no further expert joins as long as there is room. Of equal groups the one of the earlier
 * arrival goes first. A higher priority is served as if there were no lower ones.
 *
 * Decodes leave a share of the places to prefill, because the more sequences can decode, the fewer experts a step of
 * them needs. Prefill fills the step up to `maxStepMs`, and decodes fill the places that prefill does not need. A
 * chunk that exceeds `maxStepMs` on its own joins once it has waited for as long as its step will exceed it.
 *
 * With all experts in memory and few sequences, all sequences run in each step. If experts have to be loaded, the
 * expert with the longest queue goes first, as in Read-ME, Algorithm 1.
 */
export function costAware({ maxDelayMs = DEFAULT_MAX_DELAY_MS, maxStepMs = 250 }: CostAwareOptions = {}): Scheduler {
  return (state) => {
    const candidates = chunkCandidates(state);
    const step = new PricedStep(state);
    const prefill: KindShare = { worth: 0, ms: state.cost.fixedMs };
    const decodes: KindShare = { worth: 0, ms: state.cost.fixedMs };
    const hasDecodes = candidates.some(({ isDecoding }) => isDecoding);
    const besideDecodes: Room = { ...ANY_ROOM, maxMs: hasDecodes ? maxStepMs : Infinity };
    const overdue = longestOverdue(candidates, state.nowMs, maxDelayMs);
    if (overdue) add(step, overdue.isDecoding ? decodes : prefill, step.groupOf(overdue));
    for (const equals of priorityClasses(candidates)) {
      const chunks = equals.filter(({ isDecoding }) => !isDecoding).slice(0, MAX_COMPARED);
      const decoding = byWorth(
        step,
        equals.filter(({ isDecoding }) => isDecoding),
      );
      const placesKept = Math.min(chunks.length, Math.ceil(PREFILL_SHARE * state.limits.maxNumBatchedSeqs));
      const all = [...decoding, ...chunks];
      const freeLoadMs = step.hasRoomFor(all) ? step.msWithoutLoads(all) : NO_LOAD_IS_FREE;
      grow(step, decodes, decoding, { ...ANY_ROOM, placesKept, freeLoadMs });
      grow(step, prefill, chunks, { ...besideDecodes, freeLoadMs });
      if (prefill.worth === 0) addLarge(step, prefill, chunks, besideDecodes);
      grow(step, decodes, decoding, { ...(prefill.worth > 0 ? besideDecodes : ANY_ROOM), freeLoadMs });
    }
    return step.scheduled;
  };
}

/** Adds the best group repeatedly, as long as it does not lower the kind's worth per millisecond. */
function grow(step: PricedStep, share: KindShare, candidates: readonly Candidate[], room: Room): void {
  let left = candidates.filter((candidate) => !step.has(candidate));
  const rateOf = (group: Group): number => worthOfAll(step, group.members) / group.addedMs;
  // Sequences that need no new expert cost the others little, so they are not compared.
  const isFree = ({ newExperts }: Group): boolean =>
    newExperts.size === 0 || step.loadMs(newExperts) <= room.freeLoadMs;
  while (left.length > 0) {
    let best: Group | undefined;
    for (const newExperts of step.newExpertSets(left)) {
      const group = step.group(left, newExperts, room);
      if (!group) continue;
      if (!best || isFree(group) || rateOf(group) > rateOf(best) * (1 + ROUNDING)) best = group;
      if (isFree(group)) break;
    }
    if (!best) return;
    if (!isFree(best) && rateOf(best) < (share.worth / share.ms) * (1 - ROUNDING)) return;
    add(step, share, best);
    left = left.filter((candidate) => !step.has(candidate));
  }
}

/** Adds the first chunk that has waited for as long as the step with it will exceed `maxMs`. */
function addLarge(step: PricedStep, share: KindShare, chunks: readonly Candidate[], { maxMs }: Room): void {
  for (const chunk of chunks) {
    const group = step.groupOf(chunk);
    if (!group || step.state.nowMs - chunk.sequence.waitingSinceMs < step.ms + group.addedMs - maxMs) continue;
    add(step, share, group);
    return;
  }
}

function add(step: PricedStep, share: KindShare, group: Group | undefined): void {
  if (!group) return;
  share.worth += worthOfAll(step, group.members);
  share.ms += group.addedMs;
  step.addGroup(group);
}

/** Computes a chunk's worth, in tokens of a sequence that has had none and has not waited. */
function worthOf({ state: { nowMs }, ms }: PricedStep, { numTokens, sequence }: Candidate): number {
  const waitedSteps = ms > 0 ? Math.max(0, nowMs - sequence.waitingSinceMs) / ms : 0;
  const had = HALF_WORTH_TOKENS / (HALF_WORTH_TOKENS + sequence.completionTokens);
  return numTokens * had * (1 + waitedSteps) ** WAITING_POWER;
}

function worthOfAll(step: PricedStep, members: readonly Candidate[]): number {
  return members.reduce((sum, member) => sum + worthOf(step, member), 0);
}

/** Orders candidates by worth, the largest first; equals keep their order. */
function byWorth(step: PricedStep, candidates: readonly Candidate[]): readonly Candidate[] {
  const rated = candidates.map((candidate) => ({ candidate, worth: worthOf(step, candidate) }));
  return rated.toSorted((a, b) => b.worth - a.worth).map(({ candidate }) => candidate);
}

/** A step under construction with its predicted time. */
class PricedStep extends StepDraft {
  /** Predicted time of the step. */
  ms: number;
  readonly state: SchedulerState;
  readonly #experts = new Set<number>();
  /** Experts of each candidate's chunk. Equal sets are one object, since there are few of them. */
  readonly #expertsOf = new Map<Candidate, ReadonlySet<number>>();
  readonly #setsByKey = new Map<string, ReadonlySet<number>>();

  constructor(state: SchedulerState) {
    super(state.limits);
    this.state = state;
    this.ms = predictStepMs(state.cost, NO_WORK);
  }

  /** Predicts the time of a step of these candidates alone if all experts are in memory. */
  msWithoutLoads(candidates: readonly Candidate[]): number {
    const { fixedMs, msPerExpert } = this.state.cost;
    const experts = new Set(candidates.flatMap((candidate) => Array.from(this.#allExpertsOf(candidate))));
    return candidates.reduce((sum, candidate) => sum + this.#ownMs(candidate), fixedMs + msPerExpert * experts.size);
  }

  /** Predicts the time of reading the missing bytes of these experts. */
  loadMs(experts: ReadonlySet<number>): number {
    const { cost, missingBytes } = this.state;
    let bytes = 0;
    for (const expert of experts) bytes += missingBytes[expert] ?? 0;
    return cost.loadMsPerByte * bytes;
  }

  /** Whether all these candidates fit into the rest of the step, whatever time it takes. */
  hasRoomFor(candidates: readonly Candidate[]): boolean {
    const numTokens = candidates.reduce((sum, candidate) => sum + candidate.numTokens, 0);
    return candidates.length <= this.seqsLeft && numTokens <= this.tokensLeft;
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
    const mostMs = maxMs - this.ms - this.#expertsMs(newExperts);
    let [seqsLeft, tokensLeft] = [this.seqsLeft - placesKept, this.tokensLeft];
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

  addGroup({ members, newExperts, addedMs }: Group): void {
    for (const candidate of members) this.add(candidate);
    for (const expert of newExperts) this.#experts.add(expert);
    this.ms += addedMs;
  }

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
    for (const expert of experts) if (!this.#experts.has(expert) && !allowed.has(expert)) return false;
    return true;
  }

  #expertsMs(experts: ReadonlySet<number>): number {
    return this.state.cost.msPerExpert * experts.size + this.loadMs(experts);
  }

  /** Predicts the time that a candidate adds, without its experts. */
  #ownMs({ numTokens, sequence }: Candidate): number {
    const { msPerToken, msPerCachedToken } = this.state.cost;
    return msPerToken * numTokens + msPerCachedToken * sequence.numComputedTokens;
  }
}

function keyOf(experts: ReadonlySet<number>): string {
  return String(Array.from(experts).sort((a, b) => a - b));
}
