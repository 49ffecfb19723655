// Model versions of a fleet, while workers change from one to another.

import { expect, test } from "vitest";
import { versionsOf } from "../../packages/fleet/src/status.ts";
import { isLastOfVersion } from "../../packages/fleet/src/worker/fleet-worker.ts";

const worker = (id: string, modelVersion: string, change: object = {}) => ({
  id,
  modelVersion,
  promptVersion: "p",
  isDraining: false,
  maxNumSeqs: 8,
  runningSeqs: 2,
  ...change,
});

const own = worker("own", "old");

test.each([
  ["a worker that is alone restarts", [own], false],
  ["another worker of its version goes on", [own, worker("a", "old"), worker("b", "new")], false],
  ["workers of another version take its place", [own, worker("b", "new")], true],
  ["the others of its version drain, too", [worker("a", "old", { isDraining: true }), worker("b", "new")], true],
  ["the other version drains", [own, worker("b", "new", { isDraining: true })], false],
  ["the other version is of another model", [own, worker("b", "new", { promptVersion: "q" })], false],
])("a worker is the last of its version or not: %s", (_, workers, isLast) => {
  expect(isLastOfVersion(own, workers)).toBe(isLast);
});

test("versions are summed, the one that gets new requests first", () => {
  const workers = [own, worker("a", "old", { isDraining: true }), worker("b", "new"), worker("c", "new")];
  const queues = [
    { modelVersion: "old", waiting: 3 },
    { modelVersion: "old", waiting: 1 },
    { modelVersion: "gone", waiting: 2 },
  ];
  expect(versionsOf(workers, queues)).toEqual([
    { modelVersion: "new", workers: 2, draining: 0, places: 16, running: 4, waiting: 0 },
    { modelVersion: "old", workers: 2, draining: 1, places: 8, running: 4, waiting: 4 },
    { modelVersion: "gone", workers: 0, draining: 0, places: 0, running: 0, waiting: 2 },
  ]);
  expect(versionsOf([], [])).toEqual([]);
});
