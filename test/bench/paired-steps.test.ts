// Models whose steps take turns, and their tables.

import type { SuiteContext } from "../../bench/kit/suite.ts";
import { expect, test } from "vitest";
import { caseName } from "../../bench/limits/cases.ts";
import { DENSE, measurePairs, MIXTURE, pairedSamples, pairedSteps } from "../../bench/limits/paired-steps.ts";
import { ratioTable } from "../../bench/limits/ratio-table.ts";
import { allLayersMs } from "../../bench/limits/shapes.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TINY_SHAPE } from "../support/tiny-shape.ts";

const one = { numSeqs: 4, past: 64, distinct: 1 };
const cases = { dense: [one], mixture: [one, { ...one, distinct: 2 }] };
const alone = ([ms = NaN]: readonly number[]): number => ms;
const ofFiveLayers = ([few = NaN, many = NaN]: readonly number[]): number => allLayersMs([few, many], 5);

test("compares a mixture with the dense model, and names where it is slower", () => {
  const paired = pairedSteps(
    [
      { variant: DENSE, at: "4 × 64", measuredMs: [[10, 10, 90]] },
      { variant: MIXTURE, at: "4 × 64, 1 expert", measuredMs: [[8, 8, 8]] },
      { variant: MIXTURE, at: "4 × 64, 2 experts", measuredMs: [[12.5, 12.5, 12.5]] },
    ],
    alone,
  );
  const { rows, notes } = ratioTable("", paired, cases, { numExperts: 7, seed: 1 });
  // One round of three is disturbed: the median is not, and the interval includes it.
  expect(rows).toEqual([["4 × 64", "10.0", "1.25 (1.25 to 11.25)", "0.80 (0.80 to 7.20)"]]);
  expect(notes?.[0]).toBe("The mixture is slower with 4 × 64, 2 experts.");
});

test("noise that is common to a round does not change the ratio", () => {
  const noise = [1, 1.5, 0.8, 2, 1.1, 1.3, 0.9];
  const times = (ms: number) => [noise.map((factor) => factor * ms)];
  const paired = pairedSteps(
    [
      { variant: DENSE, at: "4 × 64", measuredMs: times(12) },
      { variant: MIXTURE, at: "4 × 64, 1 expert", measuredMs: times(10) },
    ],
    alone,
  );
  const { rows } = ratioTable("", paired, cases, { numExperts: 7, seed: 1 });
  expect(rows[0]?.slice(2)).toEqual(["1.20 (1.20 to 1.20)", "–"]);
});

test("computes a large model's steps from those of few layers, median by median", () => {
  const measuredMs = [
    [3, 5, 4],
    [8, 10, 9],
  ];
  const paired = pairedSteps([{ variant: DENSE, at: "4 × 64", measuredMs }], ofFiveLayers);
  expect(paired.numRounds).toBe(3);
  expect(paired.stepMs(DENSE, "4 × 64")).toBe(4 + 4 * ((9 - 4) / 2));
  expect(paired.stepMs(DENSE, "4 × 64", [0, 0, 1])).toBe(3 + 4 * ((8 - 3) / 2));
  expect(paired.stepMs(MIXTURE, "4 × 64")).toBeNaN();
  expect(pairedSamples(paired).map(({ value }) => value)).toEqual([3, 5, 4, 8, 10, 9]);
});

test("measures real models by turns, with every case once a round", async () => {
  const kept: string[] = [];
  const cacheFolder = await temporaryFolder();
  const context: SuiteContext = {
    settings: {
      model: "",
      dense: undefined,
      data: [],
      quick: true,
      rounds: 1,
      seed: 1,
      threads: 1,
      cacheFolder,
      set: {},
    },
    folder: cacheFolder,
    say: () => undefined,
    keep: (key, work) => {
      kept.push(key);
      return work();
    },
  };
  const paired = await measurePairs(context, {
    group: "steps",
    models: [
      { name: DENSE, numExperts: 1, measured: [spec(1, 96)] },
      { name: MIXTURE, numExperts: 3, measured: [spec(3, 48)] },
    ],
    cases,
    cacheFolder,
    combine: alone,
  });
  expect(paired.failures).toEqual([]);
  expect(kept).toEqual(["steps | 4 × 64"]);
  const names = [caseName(one, 1), caseName(one, 3), caseName({ ...one, distinct: 2 }, 3)];
  expect(paired.times.map(({ at }) => at)).toEqual(names);
  for (const { measuredMs } of paired.times) {
    expect(measuredMs).toHaveLength(1);
    expect(measuredMs[0]).toHaveLength(3);
    expect(Math.min(...(measuredMs[0] ?? []))).toBeGreaterThan(0);
  }
});

function spec(numExperts: number, expertSize: number) {
  return { shape: TINY_SHAPE, numExperts, expertSize };
}
