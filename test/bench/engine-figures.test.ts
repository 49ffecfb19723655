import { expect, test } from "vitest";
import { ENGINE_PARTS } from "../../bench/limits/jobs.ts";
import { runJob } from "../../bench/limits/run-job.ts";
import { POCKET } from "../support/pocket.ts";

test("splits a step of a real engine into all parts, with a share for the forward pass", async () => {
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
  expect(parts["forward pass"]).toBeGreaterThan(0);
  expect(parts["forward pass"]).toBeLessThan(step);
  expect(parts.scheduling).toBeGreaterThan(0);
});
