// Compares prefetching with reading on demand (figure 6).

import { openModel } from "@readme-moe/model";
import { formatNumber } from "../kit/report.ts";
import { interleave } from "../kit/turns.ts";
import { median } from "../kit/statistics.ts";
import type { ReportTable, SuiteContext } from "../kit/suite.ts";
import { type Sample, valuesOf } from "../kit/samples.ts";
import { prefetchedDecode } from "../scheduling/prefetched-decode.ts";
import { MOST_SAVED_BY_PREFETCH } from "./paper-numbers.ts";

const STEP_MS = "step, ms";
const [ON_DEMAND, AHEAD] = ["on demand", "one layer ahead"] as const;

/** Speeds of disks in MB/s; the first one is the system's cache. */
function speedsOf({ settings }: SuiteContext): readonly number[] {
  return settings.quick ? [Infinity] : [Infinity, 2000, 500];
}

export async function measurePrefetch(context: SuiteContext, numExperts: number): Promise<readonly Sample[]> {
  const { settings } = context;
  const capacities = [2, 3, 4, 5].filter((capacity) => capacity < numExperts);
  const model = await openModel(settings.model);
  const variant = (name: string, lookaheadLayers: number) => ({
    name,
    measure: async () => {
      const figures = [];
      for (const diskMbPerS of speedsOf(context)) {
        for (const capacity of capacities) {
          const { threads, cacheFolder, quick } = settings;
          const rounds = quick ? 9 : 30;
          const options = { threads, cacheFolder, rounds, budget: capacity / numExperts, lookaheadLayers, diskMbPerS };
          const { meanMs } = await prefetchedDecode(model, options);
          figures.push({ metric: STEP_MS, at: conditionOf(diskMbPerS, capacity), value: meanMs });
        }
      }
      return figures;
    },
  });
  try {
    return (await interleave(context, "prefetch", [variant(ON_DEMAND, 0), variant(AHEAD, 1)])).samples;
  } finally {
    await model.close();
  }
}

function conditionOf(diskMbPerS: number, capacity: number): string {
  return `${diskMbPerS === Infinity ? "system's cache" : `${diskMbPerS} MB/s`}, ${capacity} experts`;
}

export function prefetchTable(samples: readonly Sample[]): ReportTable {
  const of = (variant: string, at: number | string): number =>
    median(valuesOf(samples, { variant, at, metric: STEP_MS }));
  return {
    title: "Figure 6: a step with reads on demand and ahead, ms",
    columns: ["read from, capacity", "on demand", "one layer ahead", "less"],
    rows: [...new Set(samples.map(({ at }) => at))].map((at) => [
      String(at),
      formatNumber(of(ON_DEMAND, at)),
      formatNumber(of(AHEAD, at)),
      `${formatNumber(100 * (1 - of(AHEAD, at) / of(ON_DEMAND, at)), 1)} %`,
    ]),
    notes: [
      `The paper: up to ${MOST_SAVED_BY_PREFETCH} % less at capacities of 2 to 5; values in its plot only.`,
      "Why they differ: there, weights come over PCIe while a GPU computes; here, from the system's cache or a disk whose speed is set, while both cores compute. Reads that take longer than a layer cannot hide behind it, and a prefetched expert may evict one that is needed.",
    ],
  };
}
