// Choosing a step by what it is predicted to take: who shares an expert shares its cost, so what is chosen is experts.

import { candidatesOf, DEFAULT_MAX_DELAY_MS, longestOverdue, priorityClasses, type Candidate } from "./candidates.ts";
import { PricedStep, type Group } from "./priced-step.ts";
import type { Scheduler } from "./scheduler.ts";

export interface CostAwareOptions {
  /** A sequence that waited longer goes first. @default 500 */
  readonly maxDelayMs?: number | undefined;
  /** That a step may take with prefill in it, while others decode. @default 250 */
  readonly maxStepMs?: number | undefined;
}

/** What a step has of one kind, decoding or prefill. */
interface KindShare {
  numTokens: number;
  /** As if the step were for this kind alone: what every step takes, and what the kind added. */
  ms: number;
}

// Sums of the same terms in another order are equal up to this.
const ROUNDING = 1e-9;
// Chunks of prefill that are compared; those behind them wait for their turn by arrival. A step holds a few of them.
const MAX_COMPARED = 64;

/**
 * Takes experts while tokens per predicted millisecond do not fall by it, decodes and prefill each for themselves. A group
 * that lowers the rate would hold up the others, together, for longer than it is held up by being left out; so this order
 * is the one with the least mean latency, as with shortest jobs first.
 *
 * Whoever needs no further experts comes along as far as there is room. Of equal groups the earlier arrival's goes first;
 * a higher priority chooses as if there were no lower ones. A sequence that was left out counts for more the longer it
 * waits, by the root of how many steps' time that is: without it, rare experts wait for long where they would cost
 * little; in proportion, they are loaded for single tokens where memory is short. After `maxDelayMs` it goes first.
 *
 * Prefill beside decodes fills the step up to `maxStepMs`. A chunk that is larger than that on its own comes once it
 * has waited for as long as it goes beyond.
 *
 * With all experts in memory and few sequences this runs everybody; where experts have to be loaded, the expert with the
 * longest queue goes first, as in Read-ME, Algorithm 1.
 */
export function costAware({ maxDelayMs = DEFAULT_MAX_DELAY_MS, maxStepMs = 250 }: CostAwareOptions = {}): Scheduler {
  return (state) => {
    const { nowMs, cost } = state;
    const candidates = candidatesOf(state);
    const step = new PricedStep(state);
    const decodes: KindShare = { numTokens: 0, ms: cost.fixedMs };
    const prefill: KindShare = { numTokens: 0, ms: cost.fixedMs };
    const maxPrefillMs = candidates.some(({ isDecoding }) => isDecoding) ? maxStepMs : Infinity;
    const overdue = longestOverdue(candidates, nowMs, maxDelayMs);
    if (overdue) take(step, overdue.isDecoding ? decodes : prefill, groupOf(step, overdue));
    for (const equals of priorityClasses(candidates)) {
      choose(
        step,
        decodes,
        equals.filter(({ isDecoding }) => isDecoding),
        nowMs,
        Infinity,
      );
      const chunks = equals.filter(({ isDecoding }) => !isDecoding).slice(0, MAX_COMPARED);
      choose(step, prefill, chunks, nowMs, maxPrefillMs);
      if (prefill.numTokens === 0) takeLarge(step, prefill, chunks, nowMs, maxPrefillMs);
    }
    return step.scheduled;
  };
}

/** Adds groups of one kind and priority: those that the step is no slower with, then those that have waited. */
function choose(
  step: PricedStep,
  share: KindShare,
  candidates: readonly Candidate[],
  nowMs: number,
  maxMs: number,
): void {
  grow(step, share, candidates, maxMs, ({ numTokens }) => numTokens);
  grow(step, share, candidates, maxMs, ({ members }) =>
    members.reduce((sum, { numTokens, sequence }) => {
      const waitedSteps = Math.max(0, nowMs - sequence.waitingSinceMs) / step.ms;
      return sum + numTokens * Math.sqrt(1 + waitedSteps);
    }, 0),
  );
}

/** Adds the best group again and again, while its worth per millisecond is not below the kind's tokens per millisecond. */
function grow(
  step: PricedStep,
  share: KindShare,
  candidates: readonly Candidate[],
  maxMs: number,
  worthOf: (group: Group) => number,
): void {
  for (;;) {
    const left = candidates.filter((candidate) => !step.has(candidate));
    const rateOf = (group: Group): number => worthOf(group) / group.addedMs;
    let best: Group | undefined;
    for (const newExperts of expertSets(step, left)) {
      const group = step.group(left, newExperts, maxMs);
      if (!group) continue;
      // Sharing the step's experts costs others little, and is no choice of experts.
      const isFree = newExperts.size === 0;
      if (isFree || !best || rateOf(group) > rateOf(best) * (1 + ROUNDING)) best = group;
      if (isFree) break;
    }
    if (!best) return;
    const rate = share.numTokens / share.ms;
    if (best.newExperts.size > 0 && rateOf(best) < rate * (1 - ROUNDING)) return;
    take(step, share, best);
  }
}

/** A chunk that never fits `maxMs`, once it has waited for as long as the step will take beyond. */
function takeLarge(
  step: PricedStep,
  share: KindShare,
  chunks: readonly Candidate[],
  nowMs: number,
  maxMs: number,
): void {
  for (const chunk of chunks) {
    const group = groupOf(step, chunk);
    if (!group || nowMs - chunk.sequence.waitingSinceMs < step.ms + group.addedMs - maxMs) continue;
    take(step, share, group);
    return;
  }
}

function groupOf(step: PricedStep, candidate: Candidate): Group | undefined {
  return step.group([candidate], step.newExpertsOf(candidate), Infinity);
}

function take(step: PricedStep, share: KindShare, group: Group | undefined): void {
  if (!group) return;
  step.take(group);
  share.numTokens += group.numTokens;
  share.ms += group.addedMs;
}

/** The distinct sets of experts that candidates would bring; none first, then in order of who would bring them. */
function expertSets(step: PricedStep, candidates: readonly Candidate[]): Iterable<ReadonlySet<number>> {
  const sets = new Map<string, ReadonlySet<number>>([["", new Set()]]);
  for (const candidate of candidates) {
    const experts = step.newExpertsOf(candidate);
    const key = Array.from(experts)
      .toSorted((a, b) => a - b)
      .join();
    if (!sets.has(key)) sets.set(key, experts);
  }
  return sets.values();
}
