// States for schedulers, and a server on a made-up clock that runs one to the end.

import {
  nextChunkTokens,
  predictStepMs,
  type CostModel,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
  type SchedulerLimits,
  type SchedulerState,
} from "@readme-moe/core";
import { randomInteger } from "./random.ts";

/** A machine whose steps take several times as long as the default model says. */
export const SLOW_COST: CostModel = {
  fixedMs: 8,
  msPerToken: 1,
  msPerExpert: 0.8,
  msPerCachedToken: 0.002,
  loadMsPerByte: 1e-6,
};

export const LIMITS: SchedulerLimits = { maxNumBatchedSeqs: 4, maxNumBatchedTokens: 256, chunkTokens: 128 };

/** A sequence with all its tokens to run, that came with the others and goes to expert 0, where not said otherwise. */
export function schedulable(arrival: number, rest: Partial<SchedulableSequence> = {}): SchedulableSequence {
  const { numTokens = 1, numComputedTokens = 0 } = rest;
  const nextExperts = Array.from({ length: numTokens - numComputedTokens }, () => 0);
  const defaults = { arrivalMs: 0, priority: 0, numTokens, numComputedTokens, completionTokens: 0, nextExperts };
  return { id: `s${arrival}`, arrival, waitingSinceMs: 0, ...defaults, ...rest };
}

/** One that decodes a token of `expert`. */
export function decoding(
  arrival: number,
  expert: number,
  rest: Partial<SchedulableSequence> = {},
): SchedulableSequence {
  return schedulable(arrival, { numTokens: 50, numComputedTokens: 49, nextExperts: [expert], ...rest });
}

/** One whose prompt's tokens go to `experts`. */
export function prefilling(
  arrival: number,
  experts: readonly number[],
  rest: Partial<SchedulableSequence> = {},
): SchedulableSequence {
  return schedulable(arrival, { numTokens: experts.length, nextExperts: experts, ...rest });
}

/** At time 0, with everything in memory. */
export function stateOf(sequences: readonly SchedulableSequence[], rest: Partial<SchedulerState> = {}): SchedulerState {
  return { sequences, nowMs: 0, limits: LIMITS, cost: SLOW_COST, missingBytes: [], ...rest };
}

export function idsOf(scheduled: readonly ScheduledSequence[]): readonly string[] {
  return scheduled.map(({ id }) => id);
}

/** Milliseconds that a step of some of the state's sequences is predicted to take. */
export function predictedMs(
  { sequences, cost, missingBytes }: SchedulerState,
  scheduled: readonly ScheduledSequence[],
) {
  const byId = new Map(sequences.map((sequence) => [sequence.id, sequence]));
  const experts = new Set<number>();
  let [tokens, cachedTokens] = [0, 0];
  for (const { id, numTokens } of scheduled) {
    const { nextExperts, numComputedTokens } = byId.get(id) as SchedulableSequence;
    for (let index = 0; index < numTokens; index++) experts.add(nextExperts[index] as number);
    tokens += numTokens;
    cachedTokens += numComputedTokens;
  }
  const missing = Array.from(experts).reduce((sum, expert) => sum + (missingBytes[expert] ?? 0), 0);
  return predictStepMs(cost, { tokens, cachedTokens, distinctExperts: experts.size, missingBytes: missing });
}

/** Sequences of all kinds, lengths, ages and priorities. */
export function randomState(random: () => number, maxNumSeqs = 20): SchedulerState {
  const [numExperts, numPriorities] = [1 + randomInteger(random, 6), 1 + randomInteger(random, 3)];
  const length = 1 + randomInteger(random, maxNumSeqs);
  const sequences = Array.from({ length }, (_, arrival) => {
    const numTokens = 1 + randomInteger(random, 500);
    const numComputedTokens = random() < 0.5 ? numTokens - 1 : randomInteger(random, numTokens);
    const nextExperts = Array.from({ length: numTokens - numComputedTokens }, () => randomInteger(random, numExperts));
    const priority = randomInteger(random, numPriorities);
    const waitingSinceMs = randomInteger(random, 1000);
    return schedulable(arrival, { numTokens, numComputedTokens, nextExperts, priority, waitingSinceMs });
  });
  const limits = {
    maxNumBatchedSeqs: 1 + randomInteger(random, 8),
    maxNumBatchedTokens: 128 + randomInteger(random, 300),
    chunkTokens: 128,
  };
  return stateOf(sequences, { nowMs: 1000, limits, cost: randomCost(random), missingBytes: randomMissing(random) });
}

export function randomCost(random: () => number): CostModel {
  return {
    fixedMs: 20 * random(),
    msPerToken: 3 * random(),
    msPerExpert: 5 * random(),
    msPerCachedToken: 0.01 * random(),
    loadMsPerByte: 2e-6 * random(),
  };
}

function randomMissing(random: () => number): readonly number[] {
  return Array.from({ length: 6 }, () => (random() < 0.5 ? 0 : randomInteger(random, 100e6)));
}

/** A request to the server: `expertOf` says where each of its tokens goes. */
export interface ServedRequest {
  readonly arrivalMs: number;
  readonly priority: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly expertOf: (position: number) => number;
}

export interface Server {
  readonly limits: SchedulerLimits;
  /** That can be chosen from. */
  readonly maxNumSeqs: number;
  readonly cost: CostModel;
  /** Of each of six experts. @default 0 */
  readonly expertBytes?: number;
  /** In memory at a time, those used last. @default all */
  readonly maxResident?: number;
}

export interface Served {
  /** From arrival to the last token, over tokens; by request. */
  readonly normalisedMs: readonly number[];
  readonly longestWaitMs: number;
  readonly longestStepMs: number;
  readonly numSteps: number;
}

/** Serves requests, in order of arrival, until all are finished. Steps take exactly what the cost model says. */
export function serve(scheduler: Scheduler, requests: readonly ServedRequest[], server: Server): Served {
  const { limits, maxNumSeqs, cost, expertBytes = 0, maxResident = 6 } = server;
  const waiting = requests.map((request, arrival) => ({
    ...request,
    arrival,
    numComputedTokens: 0,
    waitingSinceMs: 0,
  }));
  const running = new Map<string, (typeof waiting)[number] & { numTokens: number }>();
  const normalisedMs: number[] = [];
  let resident: readonly number[] = [];
  let [nowMs, longestWaitMs, longestStepMs, numSteps] = [0, 0, 0, 0];
  while (waiting.length + running.size > 0) {
    if (running.size === 0) nowMs = Math.max(nowMs, waiting[0]?.arrivalMs ?? 0);
    while (running.size < maxNumSeqs && waiting[0] && waiting[0].arrivalMs <= nowMs) {
      const [next] = waiting.splice(0, 1) as [(typeof waiting)[number]];
      running.set(`s${next.arrival}`, { ...next, waitingSinceMs: nowMs, numTokens: next.promptTokens });
    }
    const sequences = Array.from(running, ([id, { numTokens, numComputedTokens, expertOf, ...rest }]) => {
      const length = numTokens - numComputedTokens;
      const nextExperts = Array.from({ length }, (_, index) => expertOf(numComputedTokens + index));
      const completionTokens = Math.max(0, numTokens - rest.promptTokens);
      return { id, numTokens, numComputedTokens, nextExperts, ...rest, completionTokens };
    });
    const missingBytes = Array.from({ length: 6 }, (_, expert) => (resident.includes(expert) ? 0 : expertBytes));
    const state = { sequences, nowMs, limits, cost, missingBytes };
    const scheduled = scheduler(state);
    if (scheduled.length === 0) throw new Error("Nobody runs");
    const stepMs = predictedMs(state, scheduled);
    const used = scheduled.flatMap(({ id, numTokens }) =>
      Array.from(sequences.find((one) => one.id === id)?.nextExperts.slice(0, numTokens) ?? []),
    );
    resident = Array.from(new Set([...used, ...resident])).slice(0, maxResident);
    for (const { id, numTokens } of scheduled) {
      const sequence = running.get(id) as NonNullable<ReturnType<typeof running.get>>;
      if (numTokens !== nextChunkTokens(sequence, limits.chunkTokens)) throw new Error(`Not a chunk of ${id}`);
      longestWaitMs = Math.max(longestWaitMs, nowMs - sequence.waitingSinceMs);
      sequence.waitingSinceMs = nowMs + stepMs;
      sequence.numComputedTokens += numTokens;
      if (sequence.numComputedTokens < sequence.numTokens) continue;
      sequence.numTokens++;
      if (sequence.numTokens <= sequence.promptTokens + sequence.completionTokens) continue;
      running.delete(id);
      normalisedMs[sequence.arrival] = (nowMs + stepMs - sequence.arrivalMs) / sequence.completionTokens;
    }
    nowMs += stepMs;
    longestStepMs = Math.max(longestStepMs, stepMs);
    numSteps++;
  }
  return { normalisedMs, longestWaitMs, longestStepMs, numSteps };
}

/**
 * Requests of 5 to 154 tokens for 20 to 139 more. Seven tokens of ten go where the token before them went (in the paper,
 * 71 %); a request has an expert of its own that it comes back to, and the first experts have more than the last.
 */
export function randomRequests(random: () => number, count: number, gapMs: number): readonly ServedRequest[] {
  let arrivalMs = 0;
  const anyExpert = (): number => Math.floor(6 * random() ** 2);
  return Array.from({ length: count }, () => {
    arrivalMs -= Math.log(1 - random()) * gapMs;
    const [promptTokens, completionTokens] = [5 + randomInteger(random, 150), 20 + randomInteger(random, 120)];
    const home = anyExpert();
    let expert = home;
    const experts = Array.from({ length: promptTokens + completionTokens }, () => {
      if (random() < 0.29) expert = random() < 0.6 ? home : anyExpert();
      return expert;
    });
    const expertOf = (position: number): number => experts[position] ?? 0;
    return { arrivalMs, priority: 0, promptTokens, completionTokens, expertOf };
  });
}
