// A mixture's steps beside the dense model's.

import { formatNumber, median, type ReportTable, type Sample, valuesOf } from "readme-moe/bench";
import type { DecodeCase } from "../decode-steps.ts";
import { caseName, type Cases } from "./cases.ts";

export const STEP_MS = "step, ms";
export const DENSE = "dense";
export const MIXTURE = "mixture";

/** Median over rounds; NaN where there is none. */
export function medianMs(samples: readonly Sample[], variant: string, at: string): number {
  return median(valuesOf(samples, { variant, at, metric: STEP_MS }));
}

/** How many times as fast as the dense model's step the mixture's is: below 1, routing costs more than it saves. */
export function ratioTable(title: string, samples: readonly Sample[], cases: Cases, numExperts: number): ReportTable {
  const distincts = [...new Set(cases.mixture.map(({ distinct }) => distinct))];
  const ratio = (dense: DecodeCase, distinct: number): number =>
    medianMs(samples, DENSE, caseName(dense, 1)) /
    medianMs(samples, MIXTURE, caseName({ ...dense, distinct }, numExperts));
  const slower = cases.dense.flatMap((one) =>
    distincts
      .filter((distinct) => ratio(one, distinct) < 1)
      .map((distinct) => caseName({ ...one, distinct }, numExperts)),
  );
  return {
    title,
    columns: [
      "sequences × context",
      "dense, ms",
      ...distincts.map((distinct) => `dense / mixture, ${distinct} of ${numExperts}`),
    ],
    rows: cases.dense.map((one) => [
      caseName(one, 1),
      formatNumber(medianMs(samples, DENSE, caseName(one, 1))),
      ...distincts.map((distinct) => formatNumber(ratio(one, distinct), 2)),
    ]),
    notes: [
      slower.length === 0
        ? "The mixture is slower nowhere that was measured."
        : `The mixture is slower with ${slower.join("; ")}.`,
    ],
  };
}
