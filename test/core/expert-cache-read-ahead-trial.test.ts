// Whether reading ahead pays is measured: the faster way runs most steps, whatever noise there is.

import { newReadAheadTrial, observeTrialStep, type ReadAheadTrial } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";

interface Way {
  /** Time of a used unit in ms. */
  readonly aheadMs: number;
  readonly demandMs: number;
}

/** Runs steps of random sizes. @returns the share of steps that read ahead, and the trial */
function run(
  trial: ReadAheadTrial,
  numSteps: number,
  { aheadMs, demandMs }: Way,
  { noise, seed }: { readonly noise: number; readonly seed: number },
): { readonly share: number; readonly trial: ReadAheadTrial } {
  const random = seededRandom(seed);
  let now = trial;
  let numAhead = 0;
  for (let step = 0; step < numSteps; step++) {
    const units = 4 + randomInteger(random, 60);
    const unitMs = (now.readsAhead ? aheadMs : demandMs) * (1 + noise * (random() - 0.5));
    if (now.readsAhead) numAhead++;
    now = observeTrialStep(now, { ms: unitMs * units, units });
  }
  return { share: numAhead / numSteps, trial: now };
}

describe("a trial of reading ahead", () => {
  const calm = { noise: 0.2, seed: 1 };

  test.each([
    [{ aheadMs: 1, demandMs: 1.2 }, 0.95, 1],
    [{ aheadMs: 1.2, demandMs: 1 }, 0, 0.05],
  ])("runs the faster way in nearly all steps: %j", (way, least, most) => {
    for (let seed = 1; seed <= 20; seed++) {
      const { share } = run(newReadAheadTrial(), 4000, way, { noise: 0.2, seed });
      expect(share).toBeGreaterThanOrEqual(least);
      expect(share).toBeLessThanOrEqual(most);
    }
  });

  test("follows a change within two long windows", () => {
    const first = run(newReadAheadTrial(), 2000, { aheadMs: 1, demandMs: 1.3 }, calm);
    expect(first.share).toBeGreaterThan(0.9);
    const changed = run(first.trial, 820, { aheadMs: 1.3, demandMs: 1 }, calm);
    const after = run(changed.trial, 2000, { aheadMs: 1.3, demandMs: 1 }, calm);
    expect(after.share).toBeLessThan(0.05);
  });

  test("does not depend on the sizes of steps, and ignores steps without units", () => {
    const trial = newReadAheadTrial();
    expect(observeTrialStep(trial, { ms: 5, units: 0 })).toBe(trial);
    const small = run(trial, 700, { aheadMs: 1, demandMs: 1.5 }, { noise: 0, seed: 3 });
    const large = run(trial, 700, { aheadMs: 1, demandMs: 1.5 }, { noise: 0, seed: 4 });
    expect(small.share).toBe(large.share);
  });

  test("spends at most 4 % of all steps on the slower way, however long it runs", () => {
    for (const way of [
      { aheadMs: 1, demandMs: 3 },
      { aheadMs: 3, demandMs: 1 },
    ]) {
      const { share } = run(newReadAheadTrial(), 20_000, way, { noise: 0.5, seed: 7 });
      expect(Math.min(share, 1 - share)).toBeLessThan(0.04);
    }
  });
});
