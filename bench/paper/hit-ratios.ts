// Hit ratios of expert caches (table 4): simulates the recorded trace with `readme-moe simulate`.

import type { ReportTable } from "../kit/suite.ts";
import { cliJson } from "../cli-json.ts";
import { HIT_RATIOS } from "./paper-numbers.ts";

const CAPACITIES = [2, 3, 4, 5] as const;
const POLICIES = ["random", "lru", "belady"] as const;

/** Result of `simulate --json` for one cache. */
interface SimulatedCache {
  readonly capacity: number;
  readonly policy: string;
  readonly hit_ratio: number;
  readonly horizon_hit_ratio: number;
  readonly belady_hit_ratio: number;
  readonly layer_hit_ratio?: number | null;
}

export interface HitRatios {
  /** Simulates one layer with its own cache. */
  readonly alone: readonly SimulatedCache[];
  readonly onDemand: readonly SimulatedCache[];
  readonly ahead: readonly SimulatedCache[];
}

/** @param trace - file of the trace; capacities above the number of experts are left out */
export async function simulateHits(trace: string, numExperts: number): Promise<HitRatios> {
  const capacity = CAPACITIES.filter((experts) => experts < numExperts).join();
  const flags = ["simulate", "--trace", trace, "--policy", POLICIES.join(), "--capacity", capacity];
  const replay = ["--replay", "--lookahead-layers"];
  const scheduled = await cliJson<{ readonly runs: readonly SimulatedCache[] }>([...flags, "--scheduler", "read-me"]);
  const onDemand = await cliJson<{ readonly replays: readonly SimulatedCache[] }>([...flags, ...replay, "0"]);
  const ahead = await cliJson<{ readonly replays: readonly SimulatedCache[] }>([...flags, ...replay, "1"]);
  return { alone: scheduled.runs, onDemand: onDemand.replays, ahead: ahead.replays };
}

export function hitRatiosTable({ alone, onDemand, ahead }: HitRatios): ReportTable {
  const capacities = [...new Set(onDemand.map(({ capacity }) => capacity))];
  const row = (name: string, of: (capacity: number) => number | null | undefined): readonly string[] => [
    name,
    ...percents(capacities.map(of)),
  ];
  const policies = POLICIES.flatMap((policy) => [
    row(`${policy}, paper`, (capacity) => (HIT_RATIOS[policy][capacity] ?? NaN) / 100),
    row(`${policy}, one layer alone`, (capacity) => cacheAt(alone, policy, capacity)?.layer_hit_ratio),
    row(`${policy}, layers share, on demand`, (capacity) => cacheAt(onDemand, policy, capacity)?.hit_ratio),
    row(`${policy}, layers share, one layer ahead`, (capacity) => cacheAt(ahead, policy, capacity)?.hit_ratio),
  ]);
  return {
    title: "Table 4: hits in %, by capacity in experts",
    columns: ["policy", ...capacities.map(String)],
    rows: [
      ...policies,
      row(
        "bound: Belady with one more step of foresight",
        (capacity) => cacheAt(onDemand, "belady", capacity)?.horizon_hit_ratio,
      ),
      row("bound: Belady with full foresight", (capacity) => cacheAt(onDemand, "belady", capacity)?.belady_hit_ratio),
    ],
    notes: [
      "Why they differ: the paper does not say in which order a batch asks for its experts, nor whether layers share a cache. One layer alone with a random order is closest to its numbers; running layer after layer is a cycle, in which LRU evicts the next expert; our routes change their expert less often.",
    ],
  };
}

function percents(values: readonly (number | null | undefined)[]): readonly string[] {
  return values.map((value) => (value === undefined || value === null ? "–" : (100 * value).toFixed(1)));
}

function cacheAt(caches: readonly SimulatedCache[], policy: string, capacity: number): SimulatedCache | undefined {
  return caches.find((one) => one.policy === policy && one.capacity === capacity);
}
