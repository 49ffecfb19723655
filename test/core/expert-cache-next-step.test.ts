import {
  DEFAULT_COST_MODEL,
  fcfs,
  forecastNextStep,
  type SchedulableSequence,
  type SchedulerState,
} from "@readme-moe/core";
import { expect, test } from "vitest";

const LIMITS = { maxNumBatchedSeqs: 8, maxNumBatchedTokens: 64, chunkTokens: 4 };

function sequence(arrival: number, numComputedTokens: number, ...nextExperts: number[]): SchedulableSequence {
  const numTokens = numComputedTokens + nextExperts.length;
  const times = { arrivalMs: arrival, waitingSinceMs: 0, priority: 0, completionTokens: 0 };
  return { id: `s${arrival}`, arrival, numTokens, numComputedTokens, nextExperts, ...times };
}

function upcoming(
  sequences: readonly SchedulableSequence[],
  running: Readonly<Record<string, number>>,
  waiting: readonly SchedulableSequence[] = [],
  limits = LIMITS,
  stepMs = 0,
  scheduler = fcfs(),
) {
  const state: SchedulerState = { sequences, nowMs: 0, limits, cost: DEFAULT_COST_MODEL, missingBytes: [] };
  const runningTokens = new Map(Object.entries(running));
  const next = forecastNextStep({ state, runningTokens, stepMs, scheduler, waiting, numExperts: 6 });
  return { ...next, laterSteps: Array.from(next.laterSteps) };
}

test("plans the next chunk of a prompt as certain, and expects each later chunk one step later", () => {
  const prompt = sequence(0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 3, 3, 3, 3, 4);
  expect(upcoming([prompt], { s0: 4 })).toEqual({
    planned: [1, 2],
    sequences: ["s0"],
    laterSteps: [Infinity, 1, 1, 2, 3, Infinity],
  });
});

test("expects a token that is not sampled yet to keep its sequence's expert", () => {
  const decoding = sequence(0, 9, 5);
  expect(upcoming([decoding], { s0: 1 })).toEqual({
    planned: [],
    sequences: [],
    laterSteps: [Infinity, Infinity, Infinity, Infinity, Infinity, 1],
  });
});

test("plans a sequence as certain that does not run now and runs next", () => {
  const limits = { ...LIMITS, maxNumBatchedSeqs: 2 };
  const sequences = [sequence(0, 9, 5), sequence(1, 3, 2)];
  expect(upcoming(sequences, { s0: 1 }, [], limits)).toMatchObject({ planned: [2], sequences: ["s1"] });
});

test("puts a sequence first that will be overdue when the running step ends", () => {
  const limits = { ...LIMITS, maxNumBatchedSeqs: 1 };
  const sequences = [sequence(0, 9, 5), sequence(1, 3, 1), sequence(2, 3, 2)];
  sequences[1] = { ...(sequences[1] as SchedulableSequence), waitingSinceMs: 5 };
  const at = (stepMs: number) =>
    upcoming(sequences, { s0: 1 }, [], limits, stepMs, fcfs({ maxDelayMs: 10, prefillShare: 1 })).sequences;
  expect(at(12)).toEqual(["s2"]);
  expect(at(1)).toEqual([]);
});

test("expects waiting sequences later, in the order of the queue", () => {
  const waiting = [sequence(2, 0, 1, 1), sequence(3, 0, 3, 1)];
  expect(upcoming([sequence(0, 9, 5)], { s0: 1 }, waiting).laterSteps).toEqual([Infinity, 2, Infinity, 3, Infinity, 1]);
});
