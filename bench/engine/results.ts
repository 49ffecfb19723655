// Medians over repetitions, and ours beside the best peer.

import { type ContenderSpec, nameOf } from "./contender.ts";
import type { Measurements } from "./measure.ts";

export interface Result {
  readonly spec: ContenderSpec;
  readonly repetitions: readonly Measurements[];
  /** Why repetitions are missing. */
  readonly failure: string | undefined;
}

/** A column: its title, how a number is read off, and which numbers are better. */
export interface Column {
  readonly title: string;
  readonly value: (measurements: Measurements) => number | undefined;
  readonly better: "higher" | "lower";
  /** Losses are compared by their difference. */
  readonly compare: "ratio" | "difference";
  readonly digits: number;
}

export function columnsOf(concurrency: readonly number[]): readonly Column[] {
  const ratio = { compare: "ratio", digits: 0 } as const;
  return [
    ...concurrency.map((count): Column => ({
      ...ratio,
      title: `${count} at once, tok/s`,
      value: (measured) => measured.decodeTokensPerSecond[count],
      better: "higher",
    })),
    { ...ratio, title: "prefill, tok/s", value: (measured) => measured.prefillTokensPerSecond, better: "higher" },
    { ...ratio, title: "peak MB", value: (measured) => measured.peakBytes / 1e6, better: "lower" },
    { ...ratio, title: "load ms", value: (measured) => measured.loadMs, better: "lower" },
    { ...ratio, title: "loop p50 ms", value: (measured) => measured.loopDelayMs?.p50, better: "lower" },
    { ...ratio, title: "p99", value: (measured) => measured.loopDelayMs?.p99, better: "lower" },
    { ...ratio, title: "max", value: (measured) => measured.loopDelayMs?.max, better: "lower" },
    { title: "loss", value: (measured) => measured.loss, better: "lower", compare: "difference", digits: 3 },
  ];
}

/** The median over the repetitions that have the number. */
export function medianOf({ repetitions }: Result, column: Column): number | undefined {
  const values = repetitions.flatMap((each) => column.value(each) ?? []).toSorted((a, b) => a - b);
  const middle = (values.length - 1) / 2;
  const [below, above] = [values[Math.floor(middle)], values[Math.ceil(middle)]];
  return below === undefined || above === undefined ? undefined : (below + above) / 2;
}

export interface Comparison {
  readonly name: string;
  /** By column; `undefined` where either side has no number. */
  readonly values: readonly (number | undefined)[];
}

/** Each of our results against the best peer of each column, whichever that is. */
export function compare(results: readonly Result[], columns: readonly Column[]): readonly Comparison[] {
  const isOurs = ({ spec }: Result): boolean => spec.engine === "readme-moe";
  const best = columns.map((column) => {
    const values = results.filter((result) => !isOurs(result)).flatMap((result) => medianOf(result, column) ?? []);
    if (values.length === 0) return undefined;
    return column.better === "higher" ? Math.max(...values) : Math.min(...values);
  });
  return results.filter(isOurs).map((result) => ({
    name: nameOf(result.spec),
    values: columns.map((column, index) => {
      const [ours, theirs] = [medianOf(result, column), best[index]];
      if (ours === undefined || theirs === undefined) return undefined;
      return column.compare === "ratio" ? ours / theirs : ours - theirs;
    }),
  }));
}
