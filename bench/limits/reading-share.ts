// Compares the read rate of one sequence's decode with that of memory.

import { formatNumber } from "../kit/report.ts";
import { median, type Pair, ratioInterval, ratioOfMedians } from "../kit/statistics.ts";
import type { ReportTable, SuiteContext, Target } from "../kit/suite.ts";
import type { Cases } from "./cases.ts";
import type { Job, ReadingRound } from "./jobs.ts";
import { runJob } from "./run-job.ts";

const WANTED_SHARE = 0.7;

/** Rounds of one row of the table. */
export interface Reading {
  readonly name: string;
  readonly rounds: readonly ReadingRound[];
}

export async function measureReading(
  context: SuiteContext,
  path: string,
  { dense }: Cases,
): Promise<readonly Reading[]> {
  const readings: Reading[] = [];
  for (const past of new Set(dense.map((one) => one.past))) {
    const name = past.toLocaleString("en-US");
    readings.push(await readingOf(context, path, { name, past, precision: "int8" }));
  }
  return readings;
}

/** Options of one row's measurement. */
type ReadingCase = Pick<Extract<Job, { readonly kind: "reading" }>, "past" | "precision" | "instructions"> & {
  readonly name: string;
};

/** Measures steps and reading by turns. @param one - its name is unique in the suite */
export async function readingOf(
  { settings, keep, say }: SuiteContext,
  path: string,
  { name, ...one }: ReadingCase,
): Promise<Reading> {
  const { threads, cacheFolder, quick, rounds } = settings;
  const job = { model: { path }, threads, cacheFolder, ...one, rounds: quick ? 3 : 10 * rounds };
  say(`steps and reading by turns: ${name}`);
  return { name, rounds: await keep(`reading | ${name}`, () => runJob({ kind: "reading", ...job })) };
}

/** Returns the median read rate of a step relative to memory's median read rate. */
export function shareOf(rounds: readonly ReadingRound[]): number {
  return ratioOfMedians(pairsOf(rounds));
}

function pairsOf(rounds: readonly ReadingRound[]): readonly Pair[] {
  return rounds.map(({ stepGBPerS, readGBPerS }) => [stepGBPerS, readGBPerS]);
}

export function readingTable(
  readings: readonly Reading[],
  seed: number,
  { title, names } = { title: "One sequence's decode beside reading memory, int8, by turns", names: "context" },
): ReportTable {
  return {
    title,
    columns: [names, "step, ms", "read by the step, GB/s", "read at once, GB/s", "share"],
    rows: readings.map(({ name, rounds }) => {
      const interval = ratioInterval(pairsOf(rounds), seed);
      return [
        name,
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
  const what = `one sequence's decode, behind ${first.name} tokens`;
  return [{ what, value: shareOf(first.rounds), unit: "of what memory gives", wanted: "over", limit: WANTED_SHARE }];
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
