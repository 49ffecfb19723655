// Mixtures with a router in every layer, beside a pre-gating router of the same shape: simulated, and as a table.

import {
  expertBytes,
  simulateMixture,
  type EvictionPolicyName,
  type MixtureSimulationResult,
  type MixtureTrace,
  type RouteKnowledge,
  megabytes,
} from "@readme-moe/core";
import { alignedTable, type Column, percent } from "readme-moe/command-parts";
import { budgetsOf, serverOf, type CacheBudget, type SchedulerName, type SimulateFlags } from "./run.ts";

/** The result of one cache size, one scheduler, and one kind of routing. */
interface MixtureRun extends CacheBudget {
  readonly scheduler: SchedulerName;
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
  ["scheduler", ({ scheduler }) => scheduler],
  ["cache", ({ capacity, budgetBytes }) => (capacity === undefined ? megabytes(budgetBytes) : `${capacity}`)],
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
  ["ms", ({ result }) => result.latencyMs.mean.toFixed(0)],
  ["p95", ({ result }) => result.latencyMs.p95.toFixed(0)],
  ["ms/token", ({ result }) => result.normalizedLatencyMs.mean.toFixed(1)],
  ["p95", ({ result }) => result.normalizedLatencyMs.p95.toFixed(1)],
];

/** Formats runs as lines; with a column for schedulers if there are several. */
export function mixtureTable(runs: readonly MixtureRun[]): readonly string[] {
  const isOfSeveral = new Set(runs.map(({ scheduler }) => scheduler)).size > 1;
  return alignedTable(isOfSeveral ? COLUMNS : COLUMNS.slice(1), runs);
}

/** Converts a run to an object for JSON. */
export function mixtureJson({ capacity, budgetBytes, scheduler, knowledge, policy, result }: MixtureRun): object {
  const { forecast } = result;
  return {
    capacity: capacity ?? null,
    budget_bytes: budgetBytes,
    scheduler,
    routes: knowledge,
    policy,
    hit_ratio: result.hitRatio,
    ready_ratio: result.readyRatio,
    uses: result.uses,
    hits: result.hits,
    loads: result.loads,
    evictions: result.evictions,
    wasted_loads: result.wastedLoads,
    bytes_read: result.bytesRead,
    forecast: forecast
      ? { loads: forecast.loads, hits: forecast.hits, misses: forecast.misses, wasted_loads: forecast.wastedLoads }
      : null,
    steps: result.steps,
    mean_distinct_experts: result.meanDistinctExperts,
    duration_ms: result.durationMs,
    stall_ms: result.stallMs,
    latency_ms: result.latencyMs,
    normalized_latency_ms: result.normalizedLatencyMs,
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
