// The benchmark's order of measurements, statistics and tables.

import * as fc from "../support/fast-check.ts";
import { bootstrapInterval, growthOf, mean, median, percentile } from "../../bench/kit/statistics.ts";
import { formatNumber, summaryTable, isMet, wantedMarkdown, markdownTable } from "../../bench/kit/report.ts";
import { type Sample, samplesCsv } from "../../bench/kit/samples.ts";
import { driftOf, turnsOf } from "../../bench/kit/turns.ts";
import { describe, expect, test } from "vitest";

function samplesOf(variant: string, values: readonly number[], firstTurn = 0, at: number | string = 8): Sample[] {
  return values.map((value, round) => ({ variant, at, metric: "speed", value, round, turn: firstTurn + 10 * round }));
}

describe("statistics", () => {
  test("the median and percentiles agree with sorting", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer(), { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 1, max: 100 }),
        (values, p) => {
          const middle = median(values);
          const below = values.filter((value) => value <= middle).length;
          const above = values.filter((value) => value >= middle).length;
          expect(Math.min(below, above)).toBeGreaterThanOrEqual(values.length / 2);
          const rank = percentile(values, p);
          expect(values.filter((value) => value <= rank).length).toBeGreaterThanOrEqual((values.length * p) / 100);
          expect(values.filter((value) => value < rank).length).toBeLessThan((values.length * p) / 100);
        },
      ),
    );
  });

  test("the bootstrap's interval agrees with that of all possible samples", () => {
    const values = [1, 2, 4, 8];
    const all: number[] = [];
    for (const a of values)
      for (const b of values) for (const c of values) for (const d of values) all.push(mean([a, b, c, d]));
    const interval = bootstrapInterval(values, { seed: 3, statistic: mean, confidence: 0.8, resamples: 20_000 });
    expect(interval?.low).toBeCloseTo(percentile(all, 10), 0);
    expect(interval?.high).toBeCloseTo(percentile(all, 90), 0);
  });

  test("the interval is the same for the same seed, holds the median, and needs two values", () => {
    fc.assert(
      fc.property(fc.array(fc.integer(), { minLength: 2, maxLength: 9 }), fc.nat(), (values, seed) => {
        const interval = bootstrapInterval(values, { seed, resamples: 200 });
        expect(bootstrapInterval(values, { seed, resamples: 200 })).toEqual(interval);
        expect(interval?.low).toBeLessThanOrEqual(median(values));
        expect(interval?.high).toBeGreaterThanOrEqual(median(values));
      }),
    );
    expect(bootstrapInterval([3], { seed: 1 })).toBeUndefined();
    expect(bootstrapInterval([1, 2], { seed: 1, statistic: ([first]) => (first === 1 ? 1 : NaN) })).toBeUndefined();
  });

  test("growth is the exponent of a power law, with a measure of its fit", () => {
    for (const exponent of [-1, 0.5, 1, 2]) {
      const points = [1, 4, 16, 64].map((x) => [x, 3 * x ** exponent] as const);
      expect(growthOf(points)).toEqual({
        exponent: expect.closeTo(exponent, 9) as number,
        factor: expect.closeTo(3, 9) as number,
        rSquared: expect.closeTo(1, 9) as number,
      });
    }
    expect(
      growthOf([
        [1, 5],
        [9, 5],
      ]),
    ).toMatchObject({ exponent: 0, rSquared: 1 });
    expect(
      growthOf([
        [1, 1],
        [2, 8],
        [4, 1],
      ])?.rSquared,
    ).toBeCloseTo(0);
    expect(
      growthOf([
        [2, 1],
        [2, 3],
      ]),
    ).toBeUndefined();
    expect(() => growthOf([[1, 0]])).toThrow(/Expected `points` to be of positive numbers, got 0/);
  });
});

describe("turns", () => {
  test("every variant is measured once a round, and the first one first and last", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 5 }), (numVariants, rounds) => {
        const turns = turnsOf(numVariants, rounds);
        for (let round = 0; round < rounds; round++) {
          const own = turns.filter((turn) => turn.round === round).map(({ variant }) => variant);
          expect(own.toSorted((a, b) => a - b)).toEqual(Array.from({ length: numVariants }, (_, index) => index));
        }
        expect(turns.length).toBeGreaterThan(1);
        expect([turns[0]?.variant, turns.at(-1)?.variant]).toEqual([0, 0]);
        expect(turns.length).toBeLessThanOrEqual(numVariants * rounds + 1);
      }),
    );
    expect(turnsOf(3, 1).map(({ variant }) => variant)).toEqual([0, 1, 2, 0]);
    expect(turnsOf(3, 2).map(({ variant }) => variant)).toEqual([0, 1, 2, 2, 1, 0]);
  });

  test("drift is the first variant's change from its first to its last measurement", () => {
    const samples = [...samplesOf("b", [9, 90], 1), ...samplesOf("a", [10, 30, 8])];
    expect(driftOf(samples)).toEqual([{ at: 8, metric: "speed", change: -0.2 }]);
    expect(driftOf(samplesOf("a", [10]))).toEqual([]);
    expect(driftOf([])).toEqual([]);
  });
});

describe("tables", () => {
  test("have medians with intervals, a dash without measurements, and a mark for drift", () => {
    const samples = [...samplesOf("a", [100, 200, 300]), ...samplesOf("b", [0.5], 1), ...samplesOf("b", [7], 1, 16)];
    const table = summaryTable(samples, { title: "T", seed: 1 });
    expect(table.columns).toEqual(["", "speed, 8 †", "speed, 16"]);
    expect(table.rows).toEqual([
      ["a", "200 (100 to 300)", "–"],
      ["b", "0.500", "7.00"],
    ]);
    expect(table.notes?.[0]).toMatch(/^† a changed by more than 10 %/);
    expect(summaryTable(samples, { title: "T", seed: 1, driftLimit: 2 }).notes).toEqual([]);
  });

  test("are Markdown with columns as wide as their cells", () => {
    const text = markdownTable({ title: "T", columns: ["", "a|b"], rows: [["x", "1"]], notes: ["n"] });
    expect(text).toBe("**T**\n\n|     | a\\|b |\n| --- | ---: |\n| x   |    1 |\n\nn");
  });

  test("numbers have three significant figures by default", () => {
    expect([12_345.6, 123.4, 12.34, 0.01234, 0, Number.NaN].map((value) => formatNumber(value))).toEqual([
      "12,346",
      "123",
      "12.3",
      "0.0123",
      "0.00",
      "–",
    ]);
    expect(formatNumber(2.5, 3)).toBe("2.500");
  });

  test("a target is met on its side of the limit only", () => {
    const target = { what: "x", unit: "ms", limit: 1 };
    expect(isMet({ ...target, value: 0.9, wanted: "under" })).toBe(true);
    expect(isMet({ ...target, value: 1, wanted: "under" })).toBe(false);
    expect(isMet({ ...target, value: 1.1, wanted: "over" })).toBe(true);
    expect(isMet({ ...target, value: Number.NaN, wanted: "over" })).toBe(false);
  });

  test("an aim beyond the limit is shown, and does not decide", () => {
    const target = { what: "x", unit: "× y", wanted: "over", value: 1.5, limit: 1, aim: 2 } as const;
    const [table = ""] = wantedMarkdown(new Map([["s", [target]]]));
    expect(table).toMatch(/\| over 1 × y \(aim: 2\) \|\s+met \|/);
  });

  test("raw samples quote names with commas, quotes and line ends", () => {
    const [sample] = samplesOf('a, "b"\nc', [0.1]);
    expect(samplesCsv(sample ? [sample] : [])).toBe(
      'variant,at,metric,round,turn,value\n"a, ""b""\nc",8,speed,0,0,0.1\n',
    );
  });
});
