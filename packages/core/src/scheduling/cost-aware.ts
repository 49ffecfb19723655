// Choosing a step by what it is predicted to take: who shares an expert shares its cost, so what is chosen is experts.

import { candidatesOf, DEFAULT_MAX_DELAY_MS, longestOverdue, priorityClasses, type Candidate } from "./candidates.ts";
import { PricedStep, type Group, type Room } from "./priced-step.ts";
import type { Scheduler } from "./scheduler.ts";

/** Of `costAware`. Times in ms. */
export interface CostAwareOptions {
  /** A sequence that waited longer goes first. @default 500 */
  readonly maxDelayMs?: number | undefined;
  /** That a step may take with prefill in it, while others decode. @default 250 */
  readonly maxStepMs?: number | undefined;
}

/** What a step has of one kind, decoding or prefill. */
interface KindShare {
  worth: number;
  /** As if the step were for this kind alone: what every step takes, and what the kind added. */
  ms: number;
}

// Sums of the same terms in another order are equal up to this.
const ROUNDING = 1e-9;
// Chunks of prefill that are compared; those behind them wait for their turn by arrival. A step holds a few of them.
const MAX_COMPARED = 64;
// A sequence that has so many tokens counts for half of one that has none: what is reported is latency by token, so whoever
// has few has more to lose by a step's wait; and who has had many has probably many to come.
const HALF_WORTH_TOKENS = 8;
// How much more a wait counts: by this root of the time of so many steps. Without it, rare experts wait for long where they
// would cost little; in proportion, they are loaded for single tokens where memory is short.
const WAITING_POWER = 0.25;
// Of a step's places, which decodes leave to prefill.
const PREFILL_SHARE = 0.25;
const ANY_ROOM: Room = { maxMs: Infinity, placesKept: 0 };
const NO_LOAD_IS_FREE = -1;

/** Room for groups that are chosen by their worth. */
interface GrowingRoom extends Room {
  /** Experts whose loading takes no longer than this come along, worth it or not. */
  readonly freeLoadMs: number;
}

/**
 * Takes experts while their tokens' worth per predicted millisecond does not lower that of the step, prefill and decodes
 * each for themselves. A token is worth more the fewer its sequence has had and the longer it has waited; after
 * `maxDelayMs` a sequence goes first. A group that lowers the rate would hold up the others, together, for longer than it
 * is held up by being left out.
 *
 * Where there is room for everybody, nobody is left out to save time that has to be spent later. An expert has to be worth its
 * load only where the load takes longer than a step of everybody without loads: running such experts by turns, some steps each,
 * saves loads and costs steps.
 *
 * Whoever needs no further experts comes along as far as there is room. Of equal groups the earlier arrival's goes first;
 * a higher priority chooses as if there were no lower ones.
 *
 * Decodes leave a share of the places to prefill, as the more sequences can decode, the fewer experts a step of them needs.
 * Prefill fills the step up to `maxStepMs`, and decodes the places that it does not need. A chunk that is larger than that
 * on its own comes once it has waited for as long as it goes beyond.
 *
 * With all experts in memory and few sequences this runs everybody; where experts have to be loaded, the expert with the
 * longest queue goes first, as in Read-ME, Algorithm 1.
 */
export function costAware({ maxDelayMs = DEFAULT_MAX_DELAY_MS, maxStepMs = 250 }: CostAwareOptions = {}): Scheduler {
  return (state) => {
    const { nowMs, cost } = state;
    const candidates = candidatesOf(state);
    const step = new PricedStep(state);
    const prefill: KindShare = { worth: 0, ms: cost.fixedMs };
    const decodes: KindShare = { worth: 0, ms: cost.fixedMs };
    const hasDecodes = candidates.some(({ isDecoding }) => isDecoding);
    const beside: Room = { ...ANY_ROOM, maxMs: hasDecodes ? maxStepMs : Infinity };
    const overdue = longestOverdue(candidates, nowMs, maxDelayMs);
    if (overdue) take(step, overdue.isDecoding ? decodes : prefill, groupOf(step, overdue), nowMs);
    for (const equals of priorityClasses(candidates)) {
      const chunks = equals.filter(({ isDecoding }) => !isDecoding).slice(0, MAX_COMPARED);
      const worthiest = byWorth(
        equals.filter(({ isDecoding }) => isDecoding),
        nowMs,
        step.ms,
      );
      const placesKept = Math.min(chunks.length, Math.ceil(PREFILL_SHARE * state.limits.maxNumBatchedSeqs));
      const everybody = [...worthiest, ...chunks];
      const freeLoadMs = step.hasRoomFor(everybody) ? step.msWithoutLoads(everybody) : NO_LOAD_IS_FREE;
      grow(step, decodes, worthiest, nowMs, { ...ANY_ROOM, placesKept, freeLoadMs });
      grow(step, prefill, chunks, nowMs, { ...beside, freeLoadMs });
      if (prefill.worth === 0) takeLarge(step, prefill, chunks, nowMs, beside);
      grow(step, decodes, worthiest, nowMs, { ...(prefill.worth > 0 ? beside : ANY_ROOM), freeLoadMs });
    }
    return step.scheduled;
  };
}

/** Adds the best group again and again, while the kind's worth per millisecond is not lower with it. */
function grow(
  step: PricedStep,
  share: KindShare,
  candidates: readonly Candidate[],
  nowMs: number,
  room: GrowingRoom,
): void {
  let left = candidates.filter((candidate) => !step.has(candidate));
  const rateOf = (group: Group): number => worthOfAll(group.members, nowMs, step.ms) / group.addedMs;
  // Sharing the step's experts costs others little, and is no choice of experts.
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
    take(step, share, best, nowMs);
    left = left.filter((candidate) => !step.has(candidate));
  }
}

/** A chunk that never fits `maxMs`, once it has waited for as long as the step will take beyond. */
function takeLarge(
  step: PricedStep,
  share: KindShare,
  chunks: readonly Candidate[],
  nowMs: number,
  { maxMs }: Room,
): void {
  for (const chunk of chunks) {
    const group = groupOf(step, chunk);
    if (!group || nowMs - chunk.sequence.waitingSinceMs < step.ms + group.addedMs - maxMs) continue;
    take(step, share, group, nowMs);
    return;
  }
}

function groupOf(step: PricedStep, candidate: Candidate): Group | undefined {
  return step.group([candidate], step.newExpertsOf(candidate), ANY_ROOM);
}

function take(step: PricedStep, share: KindShare, group: Group | undefined, nowMs: number): void {
  if (!group) return;
  share.worth += worthOfAll(group.members, nowMs, step.ms);
  share.ms += group.addedMs;
  step.take(group);
}

/** In tokens of a sequence that has none and has not waited. */
function worthOf({ numTokens, sequence }: Candidate, nowMs: number, stepMs: number): number {
  const waitedSteps = stepMs > 0 ? Math.max(0, nowMs - sequence.waitingSinceMs) / stepMs : 0;
  const had = HALF_WORTH_TOKENS / (HALF_WORTH_TOKENS + sequence.completionTokens);
  return numTokens * had * (1 + waitedSteps) ** WAITING_POWER;
}

function worthOfAll(members: readonly Candidate[], nowMs: number, stepMs: number): number {
  return members.reduce((sum, member) => sum + worthOf(member, nowMs, stepMs), 0);
}

/** The most first; equals in their order. */
function byWorth(candidates: readonly Candidate[], nowMs: number, stepMs: number): readonly Candidate[] {
  const rated = candidates.map((candidate) => ({ candidate, worth: worthOf(candidate, nowMs, stepMs) }));
  return rated.toSorted((a, b) => b.worth - a.worth).map(({ candidate }) => candidate);
}
