// What was wanted of schedulers, and whether it is so.

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
/** The paper's decode-first has so many distinct experts in a step; what is wanted of ours is said for such a load. */
const PAPER_DISTINCT = { experts: 5, within: 0.3 } as const;

/** Of a memory budget, in percent of what all experts take. */
export function budgetName(percent: number): string {
  return `${percent} % of the experts' bytes`;
}

/** A series at a load, as samples have it. @param times - requests at once, by the sequences that a step takes */
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
      lessThanBaseline(samples, at, scheduler, METRICS.meanMsPerToken, WANTED.meanPercent),
      lessThanBaseline(samples, at, scheduler, METRICS.p95MsPerToken, WANTED.p95Percent),
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

/** What can not be said of this load. */
export function schedulingNotes(samples: readonly Sample[]): readonly string[] {
  const conditions = distinct(samples.map(({ at }) => String(at)));
  if (conditions.some((at) => hasPapersLoad(samples, at))) return [];
  const distinctOf = (at: string): number => medianOf(samples, at, "decode-first", METRICS.distinctExperts);
  const most = Math.max(0, ...conditions.map(distinctOf).filter(Number.isFinite));
  const { experts, within } = PAPER_DISTINCT;
  return [
    `At most ${WANTED.distinctExperts} distinct experts a step are wanted where decode-first has ${experts} ± ${within}: it has ${most.toFixed(2)} at most here.`,
  ];
}

function hasPapersLoad(samples: readonly Sample[], at: string): boolean {
  const decodeFirst = medianOf(samples, at, "decode-first", METRICS.distinctExperts);
  return Math.abs(decodeFirst - PAPER_DISTINCT.experts) <= PAPER_DISTINCT.within;
}

function lessThanBaseline(
  samples: readonly Sample[],
  at: string,
  scheduler: string,
  metric: string,
  limit: number,
): Target {
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

/** NaN where it was not measured. */
function medianOf(samples: readonly Sample[], at: string, variant: string, metric: string): number {
  return median(valuesOf(samples, { variant, at, metric }));
}
