import { expect, test } from "vitest";
import { ENGINE_PARTS } from "../../bench/limits/jobs.ts";
import { runJob } from "../../bench/limits/run-job.ts";
import { POCKET } from "../support/pocket.ts";

test("a step of a real engine is told apart: all parts are there, and the graph has its share", async () => {
  const [figures] = await runJob({
    kind: "engine",
    model: { path: POCKET },
    precision: "fp32",
    threads: 1,
    cacheFolder: undefined,
    cases: [{ numSeqs: 2, past: 16, distinct: 1 }],
    rounds: 5,
  });
  const { parts, step } = figures!;
  expect(Object.keys(parts)).toEqual(ENGINE_PARTS);
  // Where the runner calls its session by another name, its time is counted as that of feeding it.
  expect(parts.graph).toBeGreaterThan(parts["feeds and results"]);
  expect(parts.graph).toBeLessThan(step);
  expect(parts["appending keys and values"]).toBeGreaterThan(0);
});
