// How two compare that were measured in the same rounds.

import { bootstrapInterval, type Interval, median } from "./statistics.ts";

/** Of one round. */
export type Pair = readonly [own: number, other: number];

/** Median over median, so that one odd round counts little. */
export function ratioOfMedians(pairs: readonly Pair[]): number {
  return median(pairs.map(([own]) => own)) / median(pairs.map(([, other]) => other));
}

/** Where it lies: see `bootstrapInterval`. Whole rounds are drawn, since what slows one of a pair slows the other. */
export function ratioInterval(pairs: readonly Pair[], seed: number): Interval | undefined {
  return bootstrapInterval(Array.from(pairs.keys()), {
    seed,
    statistic: (rounds) => ratioOfMedians(rounds.map((round) => pairs[round] as Pair)),
  });
}
