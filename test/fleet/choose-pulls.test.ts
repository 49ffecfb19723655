// Several pulls at once are those that a worker would have made one after the other.

import { DEFAULT_COST_MODEL, NO_HOMES } from "@readme-moe/core";
import { expect, test } from "vitest";
import type { PeekedJob, PeekedQueue } from "../../packages/fleet/src/job-queues.ts";
import { choosePulls } from "../../packages/fleet/src/worker/fleet-worker.ts";
import { describeWorker, EngineMeasure, type HeldJob } from "../../packages/fleet/src/worker/describe-worker.ts";
import { newCounters, type PublishedWorker } from "../../packages/fleet/src/worker/state.ts";

const worker = (id: string, places: number, jobs: readonly HeldJob[]): PublishedWorker =>
  describeWorker({
    id,
    promptVersion: "p",
    modelVersion: "m",
    info: { precision: "int8", maxNumSeqs: places, kvCapacityTokens: 1000 },
    publishedMs: 0,
    jobs,
    measure: new EngineMeasure(),
    pulls: 1 + jobs.length,
    counters: newCounters(),
    isDraining: false,
    homes: {},
  });

const job = (queuedMs: number, more: Partial<PeekedJob> = {}): PeekedJob => ({
  queuedMs,
  promptTokens: 10,
  maxNewTokens: 10,
  numSeqs: 1,
  ...more,
});

function queue(key: string, waiting: number, next: readonly [PeekedJob, ...PeekedJob[]]): PeekedQueue {
  return { id: key, modelVersion: "m", key, priority: 0, waiting, head: next[0], next };
}

const shares = (expert: number): readonly number[] => [0, 1].map((one) => (one === expert ? 1 : 0));
const fleet = { nowMs: 100, workers: [], homes: NO_HOMES };
const pulls = (places: number, queues: readonly PeekedQueue[]): readonly string[] =>
  choosePulls(queues, fleet, (held) => worker("own", places, held)).queueIds;

test("takes the oldest first, of all queues, and leaves jobs that it has not seen", () => {
  const queues = [queue("p0", 2, [job(20), job(40)]), queue("p1", 9, [job(10), job(30)])];
  expect(pulls(8, queues)).toEqual(["p1", "p0", "p1", "p0"]);
});

test("takes as many as it has places and memory for, choices counted", () => {
  const queues = [queue("p0", 3, [job(10), job(20, { numSeqs: 2 }), job(30)])];
  expect(pulls(1, queues)).toEqual(["p0"]);
  expect(pulls(3, queues)).toEqual(["p0", "p0"]);
  expect(pulls(8, [queue("p0", 2, [job(10, { promptTokens: 900 }), job(20, { promptTokens: 900 })])])).toEqual(["p0"]);
  expect(pulls(8, [])).toEqual([]);
});

test("counts the experts of those that it takes, and says when to ask again", () => {
  const cost = { ...DEFAULT_COST_MODEL, msPerExpert: 50 };
  const other = {
    ...worker("other", 8, [{ affinity: "e1", numSeqs: 1, expertShares: shares(1), kvTokens: 20 }]),
    cost,
  };
  const queues = [
    queue("e0", 2, [job(90, { expertShares: shares(0) }), job(90, { expertShares: shares(0) })]),
    queue("e1", 1, [job(90, { expertShares: shares(1) })]),
  ];
  const decided = choosePulls(queues, { ...fleet, workers: [other] }, (held) => ({ ...worker("own", 8, held), cost }));
  expect(decided.queueIds).toEqual(["e0", "e0"]);
  expect(decided.askAgainMs).toBeGreaterThan(100);
});
