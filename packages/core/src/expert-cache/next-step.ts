// Experts of the next step are read while the running step runs. `forecastNextStep` plans the next step early, from
// what the running one will leave. The scheduler makes the final choice later, after more sequences have arrived;
// `includePrefetched` then makes sure that experts which were read ahead are used.

import {
  chunkCandidates,
  chunkExperts,
  firstOf,
  nextChunkTokens,
  StepDraft,
  type Candidate,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerState,
} from "../scheduling/scheduler.ts";

/** Input of `forecastNextStep`: the running step and the queue behind it. */
export interface ForecastInput {
  /** State that the running step was scheduled from. */
  readonly state: SchedulerState;
  /** Number of tokens of each sequence in the running step, by `id`. */
  readonly runningTokens: ReadonlyMap<string, number>;
  /** Predicted time of the running step, in ms. */
  readonly stepMs: number;
  readonly scheduler: Scheduler;
  /** Sequences that wait for KV memory, in the order in which they will be admitted. */
  readonly waiting: readonly SchedulableSequence[];
  readonly numExperts: number;
}

/** The expert uses of later steps: certain ones of the next step, and estimates. */
export interface UpcomingUses {
  /** Experts of the next step's tokens that already exist, ascending. */
  readonly planned: readonly number[];
  /** See `UseForecast.laterSteps`, `[numExperts]`. */
  readonly laterSteps: Float64Array;
}

/** The next step, as far as it is known. */
export interface NextStep extends UpcomingUses {
  /** Ids of the sequences whose tokens `planned` belongs to. */
  readonly sequences: readonly string[];
}

/**
 * Plans the next step from what the running one will leave.
 *
 * A sequence that samples a token at the end of the running step has an unknown next expert. Its last expert is the
 * estimate, because most tokens keep the expert of the token before. Everything after the next step is an estimate
 * too.
 */
export function forecastNextStep({
  state,
  runningTokens,
  stepMs,
  scheduler,
  waiting,
  numExperts,
}: ForecastInput): NextStep {
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
    const isKnown = !("isGuess" in sequence);
    if (numTokens > 0 && isKnown) sequences.push(sequence.id);
    for (const expert of firstOf(sequence.nextExperts, numTokens)) {
      if (isKnown) planned.add(expert);
      laterSteps[expert] = 1;
    }
    addLaterChunks(laterSteps, { sequence, skippedTokens: numTokens, firstStep: 2, chunkTokens });
  }
  for (const [place, sequence] of waiting.entries()) {
    addLaterChunks(laterSteps, { sequence, skippedTokens: 0, firstStep: 2 + place, chunkTokens });
  }
  return { planned: Array.from(planned).sort((a, b) => a - b), laterSteps, sequences };
}

/** A sequence whose next token is unknown. */
interface GuessedSequence extends SchedulableSequence {
  readonly isGuess: true;
}

/** Advances a sequence by the tokens that it has in the running step. */
function afterStep(
  sequence: SchedulableSequence,
  numTokens: number,
  nowMs: number,
): SchedulableSequence | GuessedSequence {
  // True of most running sequences if many hold memory.
  if (numTokens === 0) return sequence;
  const { id, arrival, arrivalMs, priority, completionTokens } = sequence;
  const known = firstOf(sequence.nextExperts, Infinity);
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
    nextExperts: known.slice(-1),
    isGuess: true,
  };
}

interface LaterChunks {
  readonly sequence: SchedulableSequence;
  /** Number of next tokens that belong to an earlier step. */
  readonly skippedTokens: number;
  readonly firstStep: number;
  readonly chunkTokens: number;
}

/** Adds a sequence's remaining tokens to the estimates, one chunk in each step from `firstStep` on. */
function addLaterChunks(
  laterSteps: Float64Array,
  { sequence, skippedTokens, firstStep, chunkTokens }: LaterChunks,
): void {
  const { numTokens, numComputedTokens, nextExperts } = sequence;
  let done = skippedTokens;
  for (let step = firstStep; done < nextExperts.length; step++) {
    // No later chunk can bring an expert's use forward.
    if (laterSteps.every((steps) => steps <= step)) return;
    const end = done + nextChunkTokens({ numTokens, numComputedTokens: numComputedTokens + done }, chunkTokens);
    for (; done < end; done++) {
      const expert = nextExperts[done] ?? 0;
      laterSteps[expert] = Math.min(laterSteps[expert] ?? Infinity, step);
    }
  }
}

/** Experts that were read ahead. */
export interface PrefetchedReads {
  /** Experts with units that were read ahead and that no layer has run with yet. */
  readonly experts: Iterable<number>;
  /** Ids of the sequences that they were read for. */
  readonly sequences: readonly string[];
}

/**
 * Returns what the scheduler chose; or, if that leaves out a prefetched expert, a choice that uses it. Pure.
 *
 * In that case one sequence for each prefetched expert goes first, of those that it was read for. The scheduler's
 * choice follows as far as there is room, and last the other sequences that it was read for and that need no further
 * expert. A choice is thus delayed by at most one step, because reads for the following step are planned from this
 * one.
 *
 * @param chosen - sequences of `state`
 */
export function includePrefetched(
  chosen: readonly ScheduledSequence[],
  state: SchedulerState,
  prefetched: PrefetchedReads,
): readonly ScheduledSequence[] {
  const experts = new Set(prefetched.experts);
  const missing = new Set(experts);
  const byId = new Map(state.sequences.map((sequence) => [sequence.id, sequence]));
  for (const { id, numTokens } of chosen) {
    for (const expert of firstOf(byId.get(id)?.nextExperts ?? [], numTokens)) missing.delete(expert);
  }
  // The usual case.
  if (missing.size === 0) return chosen;
  const candidates = new Map(chunkCandidates(state).map((candidate) => [candidate.sequence.id, candidate]));
  const ids = new Set(prefetched.sequences);
  const readFor = Array.from(candidates.values()).filter(({ sequence }) => ids.has(sequence.id));
  if (!readFor.some((candidate) => chunkExperts(candidate).some((expert) => missing.has(expert)))) return chosen;

  const draft = new StepDraft(state.limits);
  const inStep = new Set<number>();
  const add = (candidate: Candidate | undefined): void => {
    if (!candidate || draft.has(candidate) || !draft.add(candidate)) return;
    for (const expert of chunkExperts(candidate)) inStep.add(expert);
  };
  // The forecast had these sequences in one step together, so there is room for them.
  for (const expert of experts) {
    if (!inStep.has(expert)) add(readFor.find((candidate) => chunkExperts(candidate).includes(expert)));
  }
  for (const { id } of chosen) add(candidates.get(id));
  for (const candidate of readFor) if (chunkExperts(candidate).every((expert) => inStep.has(expert))) add(candidate);
  return draft.scheduled;
}
