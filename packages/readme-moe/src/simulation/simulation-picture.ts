// Curves of what `simulate` found, over the size of the cache.

import type { CacheBounds, EvictionPolicyName } from "@readme-moe/core";
import { linePicture, type Curve, type LinePanel } from "@readme-moe/refactor";
import type { CacheBudget } from "./budgets.ts";
import type { Replay } from "./run-replays.ts";
import type { SimulationRun } from "./run-simulations.ts";

/** Of Okabe and Ito, which people with colour blindness can tell apart. */
const COLOURS: Readonly<Record<EvictionPolicyName, string>> = {
  belady: "#0072b2",
  lru: "#d55e00",
  lfu: "#009e73",
  random: "#999999",
};
const HORIZON = { name: "horizon (bound)", colour: "#56b4e9" };
const EVERYTHING = { name: "Belady knowing all (bound)", colour: "#000000" };

interface Measured extends CacheBudget {
  readonly policy: EvictionPolicyName;
  readonly hitRatio: number;
  readonly bounds: CacheBounds;
}

/** Hit ratios, and latency beside them; a row for each scheduler. `undefined` where there are no runs. */
export function simulationPicture(runs: readonly SimulationRun[], of: string): string | undefined {
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
      { title: "mean latency, ms by output token", curves: latency, most: mostMs },
    ] satisfies readonly LinePanel[];
    return { title: schedulers.length > 1 ? scheduler : undefined, panels };
  });
  const title = "What an expert cache of each size does";
  return linePicture({ title, description: of, xTitle: xTitleOf(first), rows });
}

/** Hit ratios. `undefined` where there are no replays. */
export function replayPicture(replays: readonly Replay[], of: string): string | undefined {
  const [first] = replays;
  if (!first) return undefined;
  const title = "What an expert cache of each size would have hit";
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

/** One point for each size, the first run's. */
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
