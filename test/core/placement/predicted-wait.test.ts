import { admitJob, predictedWaitMs, type QueueState, type WorkerState } from "@readme-moe/core";
import { expect, test } from "vitest";
import { queueState, workerState } from "./states.ts";

const JOB = { modelVersion: "1", priority: 0 };
/** A full worker of which a sequence ends every `everyMs`. */
const full = (id: string, everyMs: number): WorkerState =>
  workerState(id, { freeSeqs: 0, runningSeqs: 5, stepMs: everyMs / 2, stepsPerSeq: 10 });
const wait = (queues: readonly QueueState[], workers: readonly WorkerState[], priority = 0): number =>
  predictedWaitMs({ ...JOB, priority }, queues, { nowMs: 0, workers });

test("there is no wait while there are more free places than jobs before", () => {
  const workers = [full("a", 10), workerState("b", { freeSeqs: 3 })];
  for (const waiting of [1, 2]) expect(wait([queueState("e0", { waiting })], workers)).toBe(0);
  expect(wait([queueState("e0", { waiting: 3 })], workers)).toBeGreaterThan(0);
});

test("full workers give a place whenever a sequence of one of them ends", () => {
  // One worker ends a sequence every 20 ms, one every 5 ms: 0.25 in a ms.
  const workers = [full("a", 20), full("b", 5)];
  expect(wait([], workers)).toBeCloseTo(4, 9);
  expect(wait([queueState("e0", { waiting: 4 }), queueState("e1", { waiting: 5 })], workers)).toBeCloseTo(40, 9);
});

test("jobs of lower priorities and other versions are not before a job", () => {
  const queues = [queueState("e0", { priority: 1, waiting: 3 }), queueState("e0", { waiting: 7 })];
  const other = queueState("e0", { modelVersion: "2", waiting: 100 });
  expect(wait([...queues, other], [full("a", 10)], 0)).toBeCloseTo(110, 9);
  expect(wait([...queues, other], [full("a", 10)], 1)).toBeCloseTo(40, 9);
  expect(wait([...queues, other], [full("a", 10)], 2)).toBeCloseTo(10, 9);
});

test("workers that are gone, or of another version, do not count", () => {
  const gone = { ...full("a", 1), publishedMs: -3001 };
  expect(wait([], [gone, full("b", 10)])).toBeCloseTo(10, 9);
  expect(wait([], [gone])).toBe(Infinity);
  expect(wait([], [{ ...full("a", 1), modelVersion: "2" }])).toBe(Infinity);
});

test("a job is admitted if its predicted wait ends by its deadline, and else told when to come again", () => {
  const fleet = { nowMs: 1000, workers: [{ ...full("a", 10), publishedMs: 900 }] };
  const queues = [queueState("e0", { waiting: 9 })];
  const admit = (deadlineMs?: number) => admitJob({ ...JOB, deadlineMs }, queues, fleet);
  expect(admit()).toMatchObject({ isAdmitted: true, retryAfterMs: 0 });
  expect(admit(1101)).toMatchObject({ isAdmitted: true });
  const refused = admit(1070);
  expect(refused.isAdmitted).toBe(false);
  expect(refused.retryAfterMs).toBeCloseTo(30, 9);
  expect(admitJob(JOB, [], { nowMs: 0, workers: [] })).toEqual({
    isAdmitted: false,
    waitMs: Infinity,
    retryAfterMs: Infinity,
  });
});
