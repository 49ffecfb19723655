// Table of a mixture's steps beside the dense model's.

import { bootstrapInterval } from "../kit/statistics.ts";
import { formatNumber } from "../kit/report.ts";
import type { ReportTable, Target } from "../kit/suite.ts";
import { caseName, type Cases } from "./cases.ts";
import { DENSE, MIXTURE, type PairedSteps } from "./paired-steps.ts";

/** Targets of steps with one expert and the shortest past, by number of sequences. */
const WANTED: Readonly<Record<number, number>> = { 1: 1.25, 16: 1.12 };

export interface RatioOptions {
  readonly numExperts: number;
  /** Seed of the intervals. */
  readonly seed: number;
}

export function ratioTargets({ stepMs }: PairedSteps, cases: Cases, numExperts: number): readonly Target[] {
  const shortest = Math.min(...cases.dense.map(({ past }) => past));
  return cases.dense.flatMap((one) => {
    const limit = WANTED[one.numSeqs];
    if (limit === undefined || one.past !== shortest || numExperts < 2) return [];
    const value = stepMs(DENSE, caseName(one, 1)) / stepMs(MIXTURE, caseName({ ...one, distinct: 1 }, numExperts));
    return [
      { what: `${caseName(one, 1)}, one expert`, value, unit: "× as fast as the dense model", wanted: "over", limit },
    ];
  });
}

/** Speed of the mixture's step relative to the dense model's; below 1, routing costs more than it saves. */
export function ratioTable(
  title: string,
  { stepMs, numRounds }: PairedSteps,
  cases: Cases,
  { numExperts, seed }: RatioOptions,
): ReportTable {
  const rounds = Array.from({ length: numRounds }, (_, round) => round);
  const distincts = [...new Set(cases.mixture.map(({ distinct }) => distinct))];
  const slower: string[] = [];
  const cell = (one: Cases["dense"][number], distinct: number): string => {
    const own = caseName({ ...one, distinct }, numExperts);
    const ratio = (chosen: readonly number[]): number =>
      stepMs(DENSE, caseName(one, 1), chosen) / stepMs(MIXTURE, own, chosen);
    const whole = ratio(rounds);
    if (Number.isNaN(whole)) return "–";
    if (whole < 1) slower.push(own);
    const interval = bootstrapInterval(rounds, { seed, statistic: ratio });
    const [low, high] = [interval?.low, interval?.high].map((value) => formatNumber(value ?? NaN, 2));
    return `${formatNumber(whole, 2)}${interval ? ` (${low} to ${high})` : ""}`;
  };
  const rows = cases.dense.map((one) => [
    caseName(one, 1),
    formatNumber(stepMs(DENSE, caseName(one, 1))),
    ...distincts.map((distinct) => cell(one, distinct)),
  ]);
  return {
    title,
    columns: [
      "sequences × context",
      "dense, ms",
      ...distincts.map((distinct) => `dense / mixture, ${distinct} of ${numExperts}`),
    ],
    rows,
    notes: [
      slower.length === 0
        ? "The mixture is not slower in any measured case."
        : `The mixture is slower with ${slower.join("; ")}.`,
      "Steps of the models without the router, whose time is in the table of a step's parts.",
      "Ratios of medians over rounds in which all took turns, with 95 % bootstrap intervals.",
    ],
  };
}
