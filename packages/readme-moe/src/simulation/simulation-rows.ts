// Results of `simulate` as a table for a reader, and as JSON.

import type { SimulationRun } from "./run-simulations.ts";

type Column = readonly [name: string, of: (run: SimulationRun) => string];

const COLUMNS: readonly Column[] = [
  ["cache", ({ capacity, budgetBytes }) => (capacity === undefined ? megabytes(budgetBytes) : `${capacity}`)],
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

/** Lines with a head, columns aligned on the right. */
export function simulationTable(runs: readonly SimulationRun[]): readonly string[] {
  const cells = [COLUMNS.map(([name]) => name), ...runs.map((run) => COLUMNS.map(([, of]) => of(run)))];
  const widths = COLUMNS.map((_, column) => Math.max(...cells.map((row) => (row[column] as string).length)));
  return cells.map((row) => row.map((cell, column) => cell.padStart(widths[column] as number)).join("  "));
}

export function simulationJson({ capacity, budgetBytes, policy, result, layerHitRatio }: SimulationRun): object {
  const { latencyMs, normalizedLatencyMs } = result;
  return {
    capacity: capacity ?? null,
    budget_bytes: budgetBytes,
    policy,
    hit_ratio: result.hitRatio,
    horizon_hit_ratio: result.bounds.horizonHitRatio,
    belady_hit_ratio: result.bounds.beladyHitRatio,
    layer_hit_ratio: layerHitRatio ?? null,
    uses: result.uses,
    hits: result.hits,
    loads: result.loads,
    evictions: result.evictions,
    wasted_loads: result.wastedLoads,
    bytes_read: result.bytesRead,
    steps: result.steps.length,
    mean_distinct_experts: result.meanDistinctExperts,
    duration_ms: result.durationMs,
    stall_ms: result.stallMs,
    latency_ms: latencyMs,
    normalized_latency_ms: normalizedLatencyMs,
  };
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
