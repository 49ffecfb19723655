// Compares the read rate of one sequence's decode with that of memory.

import { formatNumber } from "../kit/report.ts";
import { median, type Pair, ratioInterval, ratioOfMedians } from "../kit/statistics.ts";
import type { ReportTable, SuiteContext, Target } from "../kit/suite.ts";
import type { Cases } from "./cases.ts";
import type { ReadingRound } from "./jobs.ts";
import { runJob } from "./run-job.ts";

const WANTED_SHARE = 0.7;

export interface Reading {
  readonly past: number;
  readonly rounds: readonly ReadingRound[];
}

export async function measureReading(
  { settings, keep, say }: SuiteContext,
  path: string,
  { dense }: Cases,
): Promise<readonly Reading[]> {
  const { threads, cacheFolder, quick, rounds } = settings;
  const readings: Reading[] = [];
  for (const past of new Set(dense.map((one) => one.past))) {
    const job = {
      model: { path },
      precision: "int8",
      threads,
      cacheFolder,
      past,
      rounds: quick ? 3 : 10 * rounds,
    } as const;
    say(`steps and reading by turns: ${past}`);
    readings.push({ past, rounds: await keep(`reading | ${past}`, () => runJob({ kind: "reading", ...job })) });
  }
  return readings;
}

/** Returns the median read rate of a step relative to memory's median read rate. */
export function shareOf(rounds: readonly ReadingRound[]): number {
  return ratioOfMedians(pairsOf(rounds));
}

function pairsOf(rounds: readonly ReadingRound[]): readonly Pair[] {
  return rounds.map(({ stepGBPerS, readGBPerS }) => [stepGBPerS, readGBPerS]);
}

export function readingTable(readings: readonly Reading[], seed: number): ReportTable {
  return {
    title: "One sequence's decode beside reading memory, int8, by turns",
    columns: ["context", "step, ms", "read by the step, GB/s", "read at once, GB/s", "share"],
    rows: readings.map(({ past, rounds }) => {
      const interval = ratioInterval(pairsOf(rounds), seed);
      return [
        past.toLocaleString("en-US"),
        ...(["stepMs", "stepGBPerS", "readGBPerS"] as const).map((key) =>
          formatNumber(median(rounds.map((one) => one[key]))),
        ),
        `${percent(shareOf(rounds))}${interval ? ` (${percent(interval.low)} to ${percent(interval.high)})` : ""}`,
      ];
    }),
    notes: [
      "A step reads all weights once and the keys and values of its past. Memory is read by the same number of threads just before and after each step: the rate of a shared machine changes within seconds.",
    ],
  };
}

export function readingTarget([first]: readonly Reading[]): readonly Target[] {
  if (!first) return [];
  const what = `one sequence's decode, behind ${first.past} tokens`;
  return [{ what, value: shareOf(first.rounds), unit: "of what memory gives", wanted: "over", limit: WANTED_SHARE }];
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
