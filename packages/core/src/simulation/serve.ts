// The server of a simulation: sequences arrive, wait for memory, are scheduled, and leave. What a step does is the
// caller's.

import { integerOption } from "../options.ts";
import type { CostModel } from "../scheduling/cost-model.ts";
import type { ScheduledSequence, Scheduler, SchedulerLimits, SchedulerState } from "../scheduling/scheduler.ts";
import { SimulatedSequence } from "./simulated-sequence.ts";
import type { TraceSequence } from "./trace.ts";

/** Options of a simulated server. */
export interface ServerOptions {
  readonly scheduler: Scheduler;
  readonly limits: SchedulerLimits;
  /** Largest number of sequences that hold KV memory; the others wait in order of arrival. @default 32 */
  readonly maxNumSeqs?: number | undefined;
}

/** Questions and reports of a simulated server while it runs. */
export interface ServerHooks {
  readonly cost: CostModel;
  /** Returns the time, which `run` advances. */
  nowMs(): number;
  /** Returns the bytes of each expert that are not in memory. */
  missingBytes(): ArrayLike<number>;
  /** Changes a step that was scheduled. @default no change */
  readonly adjust?: (scheduled: readonly ScheduledSequence[], state: SchedulerState) => readonly ScheduledSequence[];
  /** Runs a step. */
  run(step: ServedStep): void;
}

/** A step of a simulated server. */
export interface ServedStep {
  /** Number of the step. */
  readonly step: number;
  /** Its sequences, in their order of arrival, before they advance. */
  readonly batch: readonly SimulatedSequence[];
  /** Number of tokens of each sequence, by id. */
  readonly numTokens: ReadonlyMap<string, number>;
  /** State that it was scheduled from. */
  readonly state: SchedulerState;
  /** Sequences that wait for KV memory, in order. */
  readonly waiting: readonly SimulatedSequence[];
}

/** Latencies of sequences in ms, in the order in which they ended. */
export interface ServedLatencies {
  /** Times from arrival to the last token. */
  readonly latencies: readonly number[];
  /** Same times, divided by output tokens. */
  readonly normalized: readonly number[];
}

/**
 * Serves sequences to their end. A sequence arrives at the beginning of its step.
 *
 * @param sequences - in order of arrival
 * @throws {RangeError} if the scheduler breaks its contract
 */
export function serve(
  sequences: readonly TraceSequence[],
  { scheduler, limits, maxNumSeqs = 32 }: ServerOptions,
  hooks: ServerHooks,
): ServedLatencies {
  integerOption("maxNumSeqs", maxNumSeqs, 1);
  const { cost, adjust } = hooks;
  const arrivals = Array.from(sequences.entries());
  const waiting: SimulatedSequence[] = [];
  const running = new Map<string, SimulatedSequence>();
  const latencies: number[] = [];
  const normalized: number[] = [];

  for (let step = 0; arrivals.length + waiting.length + running.size > 0; step++) {
    if (waiting.length + running.size === 0) step = Math.max(step, arrivals[0]?.[1].arrivalStep ?? 0);
    const firstLater = arrivals.findIndex(([, { arrivalStep }]) => arrivalStep > step);
    for (const [place, sequence] of arrivals.splice(0, firstLater < 0 ? arrivals.length : firstLater)) {
      waiting.push(new SimulatedSequence(sequence, { arrival: place, arrivalMs: hooks.nowMs() }));
    }
    for (const sequence of waiting.splice(0, maxNumSeqs - running.size)) {
      sequence.waitingSinceMs = hooks.nowMs();
      running.set(sequence.id, sequence);
    }
    const held = Array.from(running.values());
    const missingBytes = hooks.missingBytes();
    const state: SchedulerState = { sequences: held, nowMs: hooks.nowMs(), limits, cost, missingBytes };
    const chosen = checkScheduled(scheduler(state), state);
    const scheduled = adjust?.(chosen, state) ?? chosen;
    const numTokens = new Map(scheduled.map((one) => [one.id, one.numTokens]));
    hooks.run({ step, batch: held.filter(({ id }) => numTokens.has(id)), numTokens, state, waiting });
    for (const { id } of scheduled) {
      const sequence = running.get(id);
      sequence?.advance(numTokens.get(id) ?? 0, hooks.nowMs());
      if (!sequence?.isFinished) continue;
      running.delete(id);
      latencies.push(hooks.nowMs() - sequence.arrivalMs);
      normalized.push((hooks.nowMs() - sequence.arrivalMs) / sequence.outputTokens);
    }
  }
  return { latencies, normalized };
}

/** Rejects a schedule that would never end the simulation, or that runs tokens that do not exist. */
function checkScheduled(scheduled: readonly ScheduledSequence[], state: SchedulerState): readonly ScheduledSequence[] {
  const left = new Map(state.sequences.map((sequence) => [sequence.id, sequence.nextExperts.length]));
  if (scheduled.length === 0) throw new RangeError("Expected the scheduler to choose at least one sequence, got none");
  for (const { id, numTokens } of scheduled) {
    const most = left.get(id);
    if (most === undefined)
      throw new RangeError(`Expected the scheduler to choose sequences of its state once, got \`${id}\``);
    integerOption(`numTokens of ${id}`, numTokens, 1, most);
    left.delete(id);
  }
  return scheduled;
}
