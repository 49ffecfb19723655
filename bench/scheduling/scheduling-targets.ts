// Targets of schedulers.

import { distinct, type Sample, valuesOf } from "../kit/samples.ts";
import { median } from "../kit/statistics.ts";
import type { Target } from "../kit/suite.ts";
import type { Measured } from "./measure.ts";

export const METRICS: Readonly<Record<keyof Measured, string>> = {
  distinctExperts: "distinct experts a step",
  meanMsPerToken: "normalised latency, mean, ms",
  p95MsPerToken: "normalised latency, 95th percentile, ms",
  meanFirstTokenMs: "first token, mean, ms",
  tokensPerSecond: "new tokens, tok/s",
  hitRatio: "hits, share of uses",
  megabytesRead: "read, MB",
  steps: "steps",
  predictionError: "prediction of a step's time, mean error, share",
  residentMegabytes: "resident memory, MB",
};

export const ALL_IN_MEMORY = "all experts in memory";
const BASELINES = ["decode-first", "prefill-first"];
const OURS = ["cost-aware", "read-me"];
const WANTED_BUDGET_PERCENT = 50;
const WANTED = { meanPercent: 15, p95Percent: 20, slowerPercent: 2, distinctExperts: 3.5 } as const;
/** Distinct experts in a step of the paper's decode-first; our target applies to such a load. */
const PAPER_DISTINCT = { experts: 5, within: 0.3 } as const;

/** Names a memory budget, in percent of all experts' bytes. */
export function budgetName(percent: number): string {
  return `${percent} % of the experts' bytes`;
}

/** Names a series at a load. @param times - concurrent requests, as a multiple of the sequences in a step */
export function conditionOf(series: string, times: number): string {
  return `${series}, ${times} ×`;
}

export function schedulingTargets(samples: readonly Sample[]): readonly Target[] {
  const conditions = distinct(samples.map(({ at }) => String(at)));
  return OURS.flatMap((scheduler) => conditions.flatMap((at) => targetsOf(samples, at, scheduler)));
}

function targetsOf(samples: readonly Sample[], at: string, scheduler: string): readonly Target[] {
  const targets: Target[] = [];
  if (at.startsWith(`${budgetName(WANTED_BUDGET_PERCENT)}, `)) {
    targets.push(
      lessThanBaseline(samples, { at, scheduler, metric: METRICS.meanMsPerToken, limit: WANTED.meanPercent }),
      lessThanBaseline(samples, { at, scheduler, metric: METRICS.p95MsPerToken, limit: WANTED.p95Percent }),
    );
  }
  if (at.startsWith(`${ALL_IN_MEMORY}, `)) targets.push(slowerThanBaseline(samples, at, scheduler));
  if (hasPapersLoad(samples, at)) {
    targets.push({
      what: `${scheduler}, ${at}: ${METRICS.distinctExperts}`,
      value: medianOf(samples, at, scheduler, METRICS.distinctExperts),
      unit: "",
      wanted: "under",
      limit: WANTED.distinctExperts,
    });
  }
  return targets;
}

/** Explains why a target does not apply to this load. */
export function schedulingNotes(samples: readonly Sample[]): readonly string[] {
  const conditions = distinct(samples.map(({ at }) => String(at)));
  if (conditions.some((at) => hasPapersLoad(samples, at))) return [];
  const distinctOf = (at: string): number => medianOf(samples, at, "decode-first", METRICS.distinctExperts);
  const most = Math.max(0, ...conditions.map(distinctOf).filter(Number.isFinite));
  const { experts, within } = PAPER_DISTINCT;
  return [
    `The target of at most ${WANTED.distinctExperts} distinct experts a step applies when decode-first has ${experts} ± ${within}; here it has at most ${most.toFixed(2)}.`,
  ];
}

function hasPapersLoad(samples: readonly Sample[], at: string): boolean {
  const decodeFirst = medianOf(samples, at, "decode-first", METRICS.distinctExperts);
  return Math.abs(decodeFirst - PAPER_DISTINCT.experts) <= PAPER_DISTINCT.within;
}

interface Reduction {
  readonly at: string;
  readonly scheduler: string;
  readonly metric: string;
  readonly limit: number;
}

function lessThanBaseline(samples: readonly Sample[], { at, scheduler, metric, limit }: Reduction): Target {
  const better = Math.min(...BASELINES.map((name) => medianOf(samples, at, name, metric)));
  const value = 100 * (1 - medianOf(samples, at, scheduler, metric) / better);
  const what = `${scheduler}, ${at}: ${metric}, less than the better baseline's`;
  return { what, value, unit: "%", wanted: "over", limit };
}

function slowerThanBaseline(samples: readonly Sample[], at: string, scheduler: string): Target {
  const metric = METRICS.tokensPerSecond;
  const best = Math.max(...BASELINES.map((name) => medianOf(samples, at, name, metric)));
  const value = 100 * (1 - medianOf(samples, at, scheduler, metric) / best);
  const what = `${scheduler}, ${at}: ${metric}, less than the best baseline's`;
  return { what, value, unit: "%", wanted: "under", limit: WANTED.slowerPercent };
}

/** Returns NaN when it was not measured. */
function medianOf(samples: readonly Sample[], at: string, variant: string, metric: string): number {
  return median(valuesOf(samples, { variant, at, metric }));
}
