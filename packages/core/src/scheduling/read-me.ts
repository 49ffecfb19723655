// The paper's batching by expert.

import { candidatesOf, DEFAULT_MAX_DELAY_MS, longestOverdue, priorityClasses, type Candidate } from "./candidates.ts";
import type { Scheduler } from "./scheduler.ts";
import { StepDraft } from "./step-draft.ts";

/** Of `readMe`. The paper's algorithm has no bound on waiting; this one has. */
export interface ReadMeSchedulerOptions {
  /** A sequence that waited longer goes first, and its expert's queue after it. @default 500 */
  readonly maxDelayMs?: number | undefined;
}

/** The sequences that need one expert, in order of arrival. */
interface ExpertQueue {
  readonly expert: number;
  readonly members: Candidate[];
  /** Of its members' chunks. */
  numTokens: number;
}

/**
 * Takes whole expert queues, the one with the most tokens first, while they fit; of the first that does not, what fits,
 * and no other after it (Read-ME, Algorithm 1). Equal queues go by their first arrival; a higher priority's queues go
 * before those of lower ones.
 *
 * Other than printed: the queue that is taken is the longest one, not the one of a stale index; a step ends when the queues
 * are empty, too; a queue that fills the step exactly counts as whole; and nobody starves (`maxDelayMs`).
 *
 * A chunk of prefill may need several experts. It waits with all its tokens in the queue of the one that most of them
 * need: what it adds beyond the queue's expert is then as little as it can be for a chunk that is in one queue only,
 * and the queue's length stays what it is compared with, tokens of a step.
 */
export function readMe({ maxDelayMs = DEFAULT_MAX_DELAY_MS }: ReadMeSchedulerOptions = {}): Scheduler {
  return (state) => {
    const candidates = candidatesOf(state);
    const draft = new StepDraft(state.limits);
    const overdue = longestOverdue(candidates, state.nowMs, maxDelayMs);
    if (overdue) draft.take(overdue);
    const firstExpert = overdue && mainExpert(overdue);
    for (const others of priorityClasses(candidates.filter((candidate) => candidate !== overdue))) {
      for (const { members } of queuesOf(others).toSorted(firstThenLongest(firstExpert))) {
        const left = members.filter((candidate) => !draft.take(candidate));
        if (left.length > 0) return draft.scheduled;
      }
    }
    return draft.scheduled;
  };
}

/** Sorting is stable, so among equal queues the one whose first member came first goes first. */
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

/** The expert of most tokens of the chunk; the lowest of several. */
function mainExpert({ sequence: { nextExperts }, numTokens }: Candidate): number {
  const counts = new Map<number, number>();
  for (let index = 0; index < numTokens; index++) {
    const expert = nextExperts[index] ?? 0;
    counts.set(expert, (counts.get(expert) ?? 0) + 1);
  }
  const [[main] = [0]] = Array.from(counts).toSorted(([a, countA], [b, countB]) => countB - countA || a - b);
  return main;
}
