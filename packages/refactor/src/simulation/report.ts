// Results of `simulate`: as a table, as JSON, and as curves over the size of the cache.

import { megabytes, type EvictionPolicyName, type ExpertCacheCounters, expertBytes } from "@readme-moe/core";
import { alignedTable, type Column, percent } from "readme-moe/command-parts";
import { linePicture, type Curve, type LinePanel } from "../report/pictures/line-picture.ts";
import type { MixtureTrace } from "./read-trace.ts";
import type { CacheBounds } from "./replay.ts";
import {
  type CacheBudget,
  type Replay,
  type SimulationRun,
  budgetsOf,
  serverOf,
  type SchedulerName,
  type SimulateFlags,
} from "./run.ts";
import {
  simulateMixture,
  type MixtureSimulationResult,
  type RouteKnowledge,
  type SimulationFigures,
} from "./simulate.ts";

/** Part of a run that is shown in the same way for both kinds of traces. */
interface AnyRun extends CacheBudget {
  readonly scheduler: SchedulerName;
  readonly result: SimulationFigures;
}

const LATENCIES: readonly Column<AnyRun>[] = [
  ["ms", ({ result }) => result.latencyMs.mean.toFixed(0)],
  ["p95", ({ result }) => result.latencyMs.p95.toFixed(0)],
  ["ms/token", ({ result }) => result.normalizedLatencyMs.mean.toFixed(1)],
  ["p95", ({ result }) => result.normalizedLatencyMs.p95.toFixed(1)],
];

const SIMULATED: readonly Column<SimulationRun>[] = [
  ["cache", cacheSize],
  ["policy", ({ policy }) => policy],
  ["ahead", ({ lookaheadLayers }) => `${lookaheadLayers}`],
  ["hits %", ({ result }) => percent(result.hitRatio)],
  ["horizon %", ({ result }) => percent(result.bounds.horizonHitRatio)],
  ["Belady %", ({ result }) => percent(result.bounds.beladyHitRatio)],
  ["layer %", ({ layerHitRatio }) => (layerHitRatio === undefined ? "" : percent(layerHitRatio))],
  ["loads", ({ result }) => `${result.loads}`],
  ["wasted", ({ result }) => `${result.wastedLoads}`],
  ["MB read", ({ result }) => (result.bytesRead / 1e6).toFixed(0)],
  ["steps", ({ result }) => `${result.steps.length}`],
  ["experts", ({ result }) => result.meanDistinctExperts.toFixed(2)],
  ...LATENCIES,
];

const REPLAYED: readonly Column<Replay>[] = [
  ["cache", cacheSize],
  ["policy", ({ policy }) => policy],
  ["hits %", (replay) => percent(replay.hitRatio)],
  ["horizon %", ({ bounds }) => percent(bounds.horizonHitRatio)],
  ["Belady %", ({ bounds }) => percent(bounds.beladyHitRatio)],
  ["uses", ({ counters }) => `${counters.uses}`],
  ["hits", ({ counters }) => `${counters.hits}`],
  ["loads", ({ counters }) => `${counters.loads}`],
  ["evictions", ({ counters }) => `${counters.evictions}`],
  ["wasted", ({ counters }) => `${counters.wastedLoads}`],
  ["MB read", ({ counters }) => (counters.bytesRead / 1e6).toFixed(0)],
  ["runs", ({ numRuns }) => `${numRuns}`],
  ["experts", ({ meanDistinctExperts }) => meanDistinctExperts.toFixed(2)],
];

export function simulationTable(runs: readonly SimulationRun[]): readonly string[] {
  return tableOf(SIMULATED, runs);
}

/** Formats runs as lines; with a column for schedulers if there are several. */
function tableOf<Run extends AnyRun>(columns: readonly Column<Run>[], runs: readonly Run[]): readonly string[] {
  const isOfSeveral = new Set(runs.map(({ scheduler }) => scheduler)).size > 1;
  return alignedTable(isOfSeveral ? [["scheduler", ({ scheduler }) => scheduler], ...columns] : columns, runs);
}

export function replayTable(replays: readonly Replay[]): readonly string[] {
  return alignedTable(REPLAYED, replays);
}

export function simulationJson(run: SimulationRun): object {
  const { scheduler, result, lookaheadLayers, layerHitRatio } = run;
  return {
    ...cacheJson(run, result),
    ...boundsJson(result.bounds),
    scheduler,
    lookahead_layers: lookaheadLayers,
    layer_hit_ratio: layerHitRatio ?? null,
    steps: result.steps.length,
    ...timesJson(result),
  };
}

function timesJson(result: SimulationFigures): object {
  return {
    mean_distinct_experts: result.meanDistinctExperts,
    duration_ms: result.durationMs,
    stall_ms: result.stallMs,
    latency_ms: result.latencyMs,
    normalized_latency_ms: result.normalizedLatencyMs,
  };
}

function boundsJson({ horizonHitRatio, beladyHitRatio }: CacheBounds): object {
  return { horizon_hit_ratio: horizonHitRatio, belady_hit_ratio: beladyHitRatio };
}

export function replayJson(replay: Replay): object {
  return {
    ...cacheJson(replay, { ...replay, ...replay.counters }),
    ...boundsJson(replay.bounds),
    runs: replay.numRuns,
    mean_distinct_experts: replay.meanDistinctExperts,
  };
}

function cacheJson(
  { capacity, budgetBytes, policy }: Pick<Replay, "capacity" | "budgetBytes" | "policy">,
  counters: ExpertCacheCounters & Pick<Replay, "hitRatio">,
): object {
  return {
    capacity: capacity ?? null,
    budget_bytes: budgetBytes,
    policy,
    hit_ratio: counters.hitRatio,
    uses: counters.uses,
    hits: counters.hits,
    loads: counters.loads,
    evictions: counters.evictions,
    wasted_loads: counters.wastedLoads,
    bytes_read: counters.bytesRead,
  };
}

function cacheSize({ capacity, budgetBytes }: CacheBudget): string {
  return capacity === undefined ? megabytes(budgetBytes) : `${capacity}`;
}

/** Colours by Okabe and Ito, which people with colour blindness can distinguish. */
const COLOURS: Readonly<Record<EvictionPolicyName, string>> = {
  belady: "#0072b2",
  lru: "#d55e00",
  lfu: "#009e73",
  random: "#999999",
};
const HORIZON = { name: "horizon (bound)", colour: "#56b4e9" };
const EVERYTHING = { name: "Belady knowing all (bound)", colour: "#000000" };

type Measured = Pick<Replay, keyof CacheBudget | "policy" | "hitRatio" | "bounds">;

/** Draws hit ratios and latency, a row for each scheduler; `undefined` without runs. */
export function simulationPicture(runs: readonly SimulationRun[], of: string): Promise<string> | undefined {
  const [first] = runs;
  if (!first) return undefined;
  const mostMs = Math.max(...runs.map(({ result }) => result.normalizedLatencyMs.mean));
  const schedulers = [...new Set(runs.map(({ scheduler }) => scheduler))];
  const rows = schedulers.map((scheduler) => {
    const own = runs.filter((run) => run.scheduler === scheduler);
    const hits = own.map((run) => ({ ...run, hitRatio: run.result.hitRatio, bounds: run.result.bounds }));
    const latency = byPolicy(own, ({ result }) => result.normalizedLatencyMs.mean);
    const panels = [
      hitPanel(hits),
      { title: "mean latency, ms per output token", curves: latency, most: mostMs },
    ] satisfies readonly LinePanel[];
    return { title: schedulers.length > 1 ? scheduler : undefined, panels };
  });
  const title = "Expert caches by size";
  return linePicture({ title, description: of, xTitle: xTitleOf(first), rows });
}

/** Draws hit ratios; `undefined` without replays. */
export function replayPicture(replays: readonly Replay[], of: string): Promise<string> | undefined {
  const [first] = replays;
  if (!first) return undefined;
  const title = "Expert caches by size, on recorded steps";
  return linePicture({ title, description: of, xTitle: xTitleOf(first), rows: [{ panels: [hitPanel(replays)] }] });
}

function hitPanel(runs: readonly Measured[]): LinePanel {
  const bound = (of: (bounds: CacheBounds) => number): Curve["points"] =>
    pointsOf(runs, ({ bounds }) => 100 * of(bounds));
  return {
    title: "hits, % of uses",
    most: 100,
    curves: [
      ...byPolicy(runs, ({ hitRatio }) => 100 * hitRatio),
      { ...HORIZON, isBound: true, points: bound(({ horizonHitRatio }) => horizonHitRatio) },
      { ...EVERYTHING, isBound: true, points: bound(({ beladyHitRatio }) => beladyHitRatio) },
    ],
  };
}

function byPolicy<Run extends CacheBudget & { readonly policy: EvictionPolicyName }>(
  runs: readonly Run[],
  of: (run: Run) => number,
): readonly Curve[] {
  return [...new Set(runs.map(({ policy }) => policy))].map((policy) => {
    const own = runs.filter((run) => run.policy === policy);
    return { name: policy, colour: COLOURS[policy], points: pointsOf(own, of) };
  });
}

/** Takes the first run of each size as its point. */
function pointsOf<Run extends CacheBudget>(runs: readonly Run[], of: (run: Run) => number): Curve["points"] {
  const points = new Map<number, number>();
  for (const run of runs) {
    const x = run.capacity ?? run.budgetBytes / 1e6;
    if (!points.has(x)) points.set(x, of(run));
  }
  return Array.from(points).toSorted(([a], [b]) => a - b);
}

function xTitleOf({ capacity }: CacheBudget): string {
  return capacity === undefined ? "memory for experts, MB" : "memory for experts, in whole experts";
}

/** The result of one cache size, one scheduler, and one kind of routing. */
interface MixtureRun extends AnyRun {
  readonly knowledge: RouteKnowledge;
  readonly policy: EvictionPolicyName;
  readonly result: MixtureSimulationResult;
}

/**
 * Runs a trace on demand with each policy, with a forecast, and as a pre-gating router would route it.
 * @throws {RangeError} when a cache is too small for a layer of a step, or larger than all experts
 */
export function runMixtures(trace: MixtureTrace, flags: SimulateFlags): readonly MixtureRun[] {
  const { numExperts } = trace.layout;
  const shares = [0.25, 0.5, 0.75].map((share) => Math.max(trace.expertsPerToken, Math.round(share * numExperts)));
  const budgets = budgetsOf(trace.layout, flags, Array.from(new Set(shares)));
  const onDemand = flags.policy.map((policy) => ({ policy, knowledge: "none" as const, lookaheadLayers: 0 }));
  // A forecast ranks what may leave by its chances, which only this policy heeds. Both read one layer ahead.
  const ahead = [
    { policy: "belady", knowledge: "forecast", lookaheadLayers: 0 },
    { policy: "belady", knowledge: "pre-gated", lookaheadLayers: 1 },
  ] as const;
  return flags.scheduler.flatMap((scheduler) =>
    budgets.flatMap((budget) =>
      [...onDemand, ...ahead].map(({ policy, knowledge, lookaheadLayers }) => {
        const cache = { policy, seed: flags.seed, budgetBytes: budget.budgetBytes, lookaheadLayers };
        const result = simulateMixture(trace, { ...serverOf(flags, scheduler), knowledge, cache });
        return { ...budget, scheduler, knowledge, policy, result };
      }),
    ),
  );
}

const KNOWN: Readonly<Record<RouteKnowledge, string>> = {
  none: "on demand",
  forecast: "forecast",
  "pre-gated": "pre-gated",
};

const COLUMNS: readonly Column<MixtureRun>[] = [
  ["cache", cacheSize],
  ["routes", ({ knowledge }) => KNOWN[knowledge]],
  ["policy", ({ policy }) => policy],
  ["hits %", ({ result }) => percent(result.hitRatio)],
  ["ready %", ({ result }) => percent(result.readyRatio)],
  ["loads", ({ result }) => `${result.loads}`],
  ["ahead", ({ result }) => count(result.forecast?.loads)],
  ["right", ({ result }) => count(result.forecast?.hits)],
  ["wasted", ({ result }) => `${result.wastedLoads}`],
  ["MB read", ({ result }) => (result.bytesRead / 1e6).toFixed(0)],
  ["experts", ({ result }) => result.meanDistinctExperts.toFixed(2)],
  ["stall %", ({ result }) => percent(result.stallMs / result.durationMs)],
  ...LATENCIES,
];

export function mixtureTable(runs: readonly MixtureRun[]): readonly string[] {
  return tableOf(COLUMNS, runs);
}

export function mixtureJson(run: MixtureRun): object {
  const { scheduler, knowledge, result } = run;
  const { forecast } = result;
  return {
    ...cacheJson(run, result),
    scheduler,
    routes: knowledge,
    ready_ratio: result.readyRatio,
    forecast: forecast
      ? { loads: forecast.loads, hits: forecast.hits, misses: forecast.misses, wasted_loads: forecast.wastedLoads }
      : null,
    steps: result.steps,
    ...timesJson(result),
  };
}

/** Describes a trace's mixture in one line. */
export function describeMixture({ layout, expertsPerToken }: MixtureTrace): string {
  const bytes = layout.numExperts * expertBytes(layout);
  const { numExperts, layerBytes } = layout;
  return `${expertsPerToken} of ${numExperts} experts in each of ${layerBytes.length} layers, ${megabytes(bytes)}`;
}

function count(value: number | undefined): string {
  return value === undefined ? "" : `${value}`;
}
