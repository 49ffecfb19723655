// The paper's batching by expert.

import {
  chunkCandidates,
  chunkExperts,
  DEFAULT_MAX_DELAY_MS,
  longestOverdue,
  priorityClasses,
  StepDraft,
  type Candidate,
  type Scheduler,
} from "./scheduler.ts";

/** Options of `readMe`. */
export interface ReadMeSchedulerOptions {
  /**
   * Longest wait in ms, after which a sequence goes first, and its expert's queue after it. The paper's algorithm does
   * not bound waits. @default 500
   */
  readonly maxDelayMs?: number | undefined;
}

/** The sequences that need one expert, in order of arrival. */
interface ExpertQueue {
  readonly expert: number;
  readonly members: Candidate[];
  /** Number of tokens of its members' chunks. */
  numTokens: number;
}

/**
 * Schedules whole expert queues, the one with the most tokens first, while they fit. Of the first queue that does not
 * fit, it takes what fits, and no other queue after it (Read-ME, Algorithm 1). Equal queues are ordered by their first
 * arrival; queues of a higher priority go before those of lower ones.
 *
 * Differences from the printed algorithm: the longest queue is taken, not the one of a stale index; a step also ends
 * when the queues are empty; a queue that fills the step exactly counts as whole; and no sequence starves
 * (`maxDelayMs`).
 *
 * A chunk of prefill may need several experts. It joins the queue of the expert that most of its tokens need, with all
 * its tokens. Of all single queues, that one adds the fewest experts to the step, and a queue's length remains a
 * number of tokens of the step.
 */
export function readMe({ maxDelayMs = DEFAULT_MAX_DELAY_MS }: ReadMeSchedulerOptions = {}): Scheduler {
  return (state) => {
    const candidates = chunkCandidates(state);
    const draft = new StepDraft(state.limits);
    const overdue = longestOverdue(candidates, state.nowMs, maxDelayMs);
    if (overdue) draft.add(overdue);
    const firstExpert = overdue && mainExpert(overdue);
    for (const others of priorityClasses(candidates.filter((candidate) => candidate !== overdue))) {
      for (const { members } of queuesOf(others).toSorted(firstThenLongest(firstExpert))) {
        const left = members.filter((candidate) => !draft.add(candidate));
        if (left.length > 0) return draft.scheduled;
      }
    }
    return draft.scheduled;
  };
}

/** Orders the queue of expert `first` before the others, then longer queues first. The sort is stable. */
function firstThenLongest(first: number | undefined): (a: ExpertQueue, b: ExpertQueue) => number {
  return (a, b) => Number(b.expert === first) - Number(a.expert === first) || b.numTokens - a.numTokens;
}

function queuesOf(candidates: readonly Candidate[]): readonly ExpertQueue[] {
  const queues = new Map<number, ExpertQueue>();
  for (const candidate of candidates) {
    const expert = mainExpert(candidate);
    const queue = queues.get(expert) ?? { expert, members: [], numTokens: 0 };
    queues.set(expert, queue);
    queue.members.push(candidate);
    queue.numTokens += candidate.numTokens;
  }
  return Array.from(queues.values());
}

/** Finds the expert of most tokens of the chunk; the lowest index among equals. */
function mainExpert(candidate: Candidate): number {
  const counts = new Map<number, number>();
  for (const expert of chunkExperts(candidate)) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  const [[main] = [0]] = Array.from(counts).toSorted(([a, countA], [b, countB]) => countB - countA || a - b);
  return main;
}
