// What comes after the running step, as far as queue and scheduler tell before it has run.

import {
  nextChunkTokens,
  type SchedulableSequence,
  type Scheduler,
  type SchedulerState,
} from "../scheduling/scheduler.ts";

/** What `upcomingUses` looks at: the running step, and who waits for the next. */
export interface UpcomingQueue {
  /** What the running step was scheduled from. */
  readonly state: SchedulerState;
  /** Of these sequences, how many tokens run in the running step, by `id`. */
  readonly runningTokens: ReadonlyMap<string, number>;
  /** That the running step is predicted to take, in ms. */
  readonly stepMs: number;
  readonly scheduler: Scheduler;
  /** Sequences that cannot run yet, as they have no KV memory; in the order in which they will. */
  readonly waiting: readonly SchedulableSequence[];
  readonly numExperts: number;
}

/** What the next steps need: what is sure of the next, and estimates beyond. */
export interface UpcomingUses {
  /** Experts of the next step's tokens that exist already, ascending. */
  readonly planned: readonly number[];
  /** See `KnownUses.laterSteps`, `[numExperts]`. */
  readonly laterSteps: Float64Array;
}

/** The next step, as far as it is known. */
export interface UpcomingStep extends UpcomingUses {
  /** By `id`, the sequences that `planned` is of. */
  readonly sequences: readonly string[];
}

/**
 * Plans the next step from what the running one will leave.
 *
 * A sequence that samples a token at the end of the running step has an expert that nobody knows yet: it is expected to
 * keep its last one, as most tokens do, and is an estimate. So is everything behind the next step.
 */
export function upcomingUses(queue: UpcomingQueue): UpcomingStep {
  const { state, runningTokens, stepMs, scheduler, waiting, numExperts } = queue;
  const { chunkTokens } = state.limits;
  const nowMs = state.nowMs + stepMs;
  const left = state.sequences.map((sequence) => afterStep(sequence, runningTokens.get(sequence.id) ?? 0, nowMs));
  const chosen = scheduler({ ...state, sequences: left, nowMs });
  const nextTokens = new Map(chosen.map(({ id, numTokens }) => [id, numTokens]));
  const laterSteps = new Float64Array(numExperts).fill(Infinity);
  const planned = new Set<number>();
  const sequences: string[] = [];
  for (const sequence of left) {
    const numTokens = nextTokens.get(sequence.id) ?? 0;
    if (numTokens > 0 && !("isGuess" in sequence)) sequences.push(sequence.id);
    for (let token = 0; token < numTokens; token++) {
      const expert = sequence.nextExperts[token] as number;
      if (!("isGuess" in sequence)) planned.add(expert);
      laterSteps[expert] = 1;
    }
    addChunks(laterSteps, sequence, numTokens, 2, chunkTokens);
  }
  for (const [place, sequence] of waiting.entries()) addChunks(laterSteps, sequence, 0, 2 + place, chunkTokens);
  return { planned: Array.from(planned).sort((a, b) => a - b), laterSteps, sequences };
}

/** A sequence whose next token is not known. */
interface GuessedSequence extends SchedulableSequence {
  readonly isGuess: true;
}

function afterStep(
  sequence: SchedulableSequence,
  numTokens: number,
  nowMs: number,
): SchedulableSequence | GuessedSequence {
  // Most of those that hold memory where many do.
  if (numTokens === 0) return sequence;
  const { id, arrival, arrivalMs, priority, completionTokens } = sequence;
  const { nextExperts: all } = sequence;
  const known: readonly number[] = Array.isArray(all) ? all : Array.from(all);
  const numComputedTokens = sequence.numComputedTokens + numTokens;
  const left = { id, arrival, arrivalMs, priority, numComputedTokens, waitingSinceMs: nowMs };
  const nextExperts = known.slice(numTokens);
  if (nextExperts.length > 0) {
    return { ...left, numTokens: sequence.numTokens, completionTokens, nextExperts };
  }
  return {
    ...left,
    numTokens: sequence.numTokens + 1,
    completionTokens: completionTokens + 1,
    nextExperts: [known[numTokens - 1] as number],
    isGuess: true,
  };
}

/** A sequence's tokens behind the first `skipped`, a chunk in each step from `firstStep` on. */
function addChunks(
  laterSteps: Float64Array,
  { numTokens, numComputedTokens, nextExperts }: SchedulableSequence,
  skipped: number,
  firstStep: number,
  chunkTokens: number,
): void {
  let done = skipped;
  for (let step = firstStep; done < nextExperts.length; step++) {
    // Nobody is needed sooner because of this one any more.
    if (laterSteps.every((steps) => steps <= step)) return;
    const end = done + nextChunkTokens({ numTokens, numComputedTokens: numComputedTokens + done }, chunkTokens);
    for (; done < end; done++) {
      const expert = nextExperts[done] as number;
      if ((laterSteps[expert] as number) > step) laterSteps[expert] = step;
    }
  }
}
