// Results of `simulate` as a table for a reader, and as JSON.

import type { ExpertCacheCounters } from "@readme-moe/core";
import type { CacheBudget } from "./budgets.ts";
import type { Replay } from "./run-replays.ts";
import type { SimulationRun } from "./run-simulations.ts";

type Column<Run> = readonly [name: string, of: (run: Run) => string];

const SCHEDULER: Column<SimulationRun> = ["scheduler", ({ scheduler }) => scheduler];
const SIMULATED: readonly Column<SimulationRun>[] = [
  ["cache", cacheSize],
  ["policy", ({ policy }) => policy],
  ["hits %", ({ result }) => percent(result.hitRatio)],
  ["horizon %", ({ result }) => percent(result.bounds.horizonHitRatio)],
  ["Belady %", ({ result }) => percent(result.bounds.beladyHitRatio)],
  ["layer %", ({ layerHitRatio }) => (layerHitRatio === undefined ? "" : percent(layerHitRatio))],
  ["loads", ({ result }) => `${result.loads}`],
  ["wasted", ({ result }) => `${result.wastedLoads}`],
  ["MB read", ({ result }) => (result.bytesRead / 1e6).toFixed(0)],
  ["steps", ({ result }) => `${result.steps.length}`],
  ["experts", ({ result }) => result.meanDistinctExperts.toFixed(2)],
  ["ms", ({ result }) => result.latencyMs.mean.toFixed(0)],
  ["p95", ({ result }) => result.latencyMs.p95.toFixed(0)],
  ["ms/token", ({ result }) => result.normalizedLatencyMs.mean.toFixed(1)],
  ["p95", ({ result }) => result.normalizedLatencyMs.p95.toFixed(1)],
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

/** Lines with a head, columns aligned on the right; with a column for schedulers where there are several. */
export function simulationTable(runs: readonly SimulationRun[]): readonly string[] {
  const isOfSeveral = new Set(runs.map(({ scheduler }) => scheduler)).size > 1;
  return table(isOfSeveral ? [SCHEDULER, ...SIMULATED] : SIMULATED, runs);
}

export function replayTable(replays: readonly Replay[]): readonly string[] {
  return table(REPLAYED, replays);
}

function table<Run>(columns: readonly Column<Run>[], runs: readonly Run[]): readonly string[] {
  const cells = [columns.map(([name]) => name), ...runs.map((run) => columns.map(([, of]) => of(run)))];
  const widths = columns.map((_, column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  return cells.map((row) => row.map((cell, column) => cell.padStart(widths[column] as number)).join("  "));
}

export function simulationJson(run: SimulationRun): object {
  const { scheduler, result, layerHitRatio } = run;
  const { latencyMs, normalizedLatencyMs } = result;
  return {
    ...cacheJson(run, result, result),
    scheduler,
    layer_hit_ratio: layerHitRatio ?? null,
    steps: result.steps.length,
    mean_distinct_experts: result.meanDistinctExperts,
    duration_ms: result.durationMs,
    stall_ms: result.stallMs,
    latency_ms: latencyMs,
    normalized_latency_ms: normalizedLatencyMs,
  };
}

export function replayJson(replay: Replay): object {
  return {
    ...cacheJson(replay, replay, replay.counters),
    runs: replay.numRuns,
    mean_distinct_experts: replay.meanDistinctExperts,
  };
}

function cacheJson(
  { capacity, budgetBytes, policy }: Pick<Replay, "capacity" | "budgetBytes" | "policy">,
  { hitRatio, bounds }: Pick<Replay, "hitRatio" | "bounds">,
  counters: ExpertCacheCounters,
): object {
  return {
    capacity: capacity ?? null,
    budget_bytes: budgetBytes,
    policy,
    hit_ratio: hitRatio,
    horizon_hit_ratio: bounds.horizonHitRatio,
    belady_hit_ratio: bounds.beladyHitRatio,
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

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
