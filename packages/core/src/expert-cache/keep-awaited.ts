// A step is planned while the one before it runs, so that reads begin early; chosen it is later, when more is known:
// times have passed, sequences have come. What was read meanwhile is to be used all the same.

import { candidatesOf, type Candidate } from "../scheduling/candidates.ts";
import type { SchedulableSequence, ScheduledSequence, SchedulerState } from "../scheduling/scheduler.ts";
import { StepDraft } from "../scheduling/step-draft.ts";

/** What `keepAwaited` goes by. */
export interface AwaitedReads {
  /** Experts of which units were read ahead and no layer has run with them yet. */
  readonly experts: Iterable<number>;
  /** By `id`, the sequences that they were read for. */
  readonly sequences: readonly string[];
}

/**
 * What a scheduler chose, the same list; or, where it leaves an awaited expert out, with somebody who needs it. Pure.
 *
 * Then for each awaited expert one of the sequences that it was read for goes first; what was chosen follows as far as
 * there is room, and last the others of these sequences that need nothing further. So a choice is put off by one step at
 * most: what the next step is read for is planned from this one.
 *
 * @param chosen - of `state`
 */
export function keepAwaited(
  chosen: readonly ScheduledSequence[],
  state: SchedulerState,
  awaited: AwaitedReads,
): readonly ScheduledSequence[] {
  const experts = new Set(awaited.experts);
  const lacking = new Set(experts);
  const byId = new Map(state.sequences.map((sequence) => [sequence.id, sequence]));
  for (const { id, numTokens } of chosen) {
    const { nextExperts } = byId.get(id) as SchedulableSequence;
    for (let token = 0; token < numTokens; token++) lacking.delete(nextExperts[token] as number);
  }
  // As nearly always.
  if (lacking.size === 0) return chosen;
  const candidates = new Map(candidatesOf(state).map((candidate) => [candidate.sequence.id, candidate]));
  const ids = new Set(awaited.sequences);
  const readFor = Array.from(candidates.values()).filter(({ sequence }) => ids.has(sequence.id));
  if (!readFor.some((candidate) => expertsOf(candidate).some((expert) => lacking.has(expert)))) return chosen;

  const draft = new StepDraft(state.limits);
  const inStep = new Set<number>();
  const take = (candidate: Candidate | undefined): void => {
    if (!candidate || draft.has(candidate) || !draft.take(candidate)) return;
    for (const expert of expertsOf(candidate)) inStep.add(expert);
  };
  // They were in one step together when it was planned, so there is room for them.
  for (const expert of experts) {
    if (!inStep.has(expert)) take(readFor.find((candidate) => expertsOf(candidate).includes(expert)));
  }
  for (const { id } of chosen) take(candidates.get(id));
  for (const candidate of readFor) if (expertsOf(candidate).every((expert) => inStep.has(expert))) take(candidate);
  return draft.scheduled;
}

function expertsOf({ sequence, numTokens }: Candidate): readonly number[] {
  return Array.from(sequence.nextExperts).slice(0, numTokens);
}
