// Losses of contenders on the same texts, each in a fresh process.

import { measureInProcess } from "../engine/contender-process.ts";
import { type ContenderSpec, nameOf } from "../engine/contender.ts";
import { METRICS } from "../engine/metrics.ts";
import type { Workload } from "../engine/workload.ts";
import type { SuiteContext } from "../kit/suite.ts";
import { type Interleaved, interleave } from "../kit/turns.ts";

/** Measures losses once, and the first contender's once more. Without texts there are none. @param warmUp - a prompt */
export async function measureLosses(
  context: SuiteContext,
  specs: readonly ContenderSpec[],
  { warmUp, texts }: Pick<Workload, "warmUp" | "texts">,
): Promise<Interleaved> {
  if (texts.flat().length === 0) return { samples: [], failures: new Map() };
  const workload = { warmUp, batches: [], newTokens: 0, longPrompts: [], contextTokens: 0, texts };
  const { threads, cacheFolder } = context.settings;
  const variants = specs.map((spec) => ({
    name: nameOf(spec),
    measure: async (seed: number) => {
      const figures = await measureInProcess({ spec, threads, maxSequences: 1, seed, cacheFolder }, workload);
      return figures.filter(({ metric }) => metric === METRICS.loss);
    },
  }));
  return interleave(context, "loss", variants, 1);
}
