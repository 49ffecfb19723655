// Opens contenders in fresh processes: first with an empty cache folder, then with what that left there.

import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { measureInProcess } from "../engine/contender-process.ts";
import { type ContenderSpec, nameOf } from "../engine/contender.ts";
import { METRICS } from "../engine/metrics.ts";
import type { Figure } from "../kit/samples.ts";
import type { SuiteContext } from "../kit/suite.ts";
import { type Interleaved, interleave } from "../kit/turns.ts";

export const OPENING = {
  /** From the library's import to an open model; files are in the system's cache. */
  open: "open, s",
  /** Memory of all processes together, after a short answer. */
  peak: "peak memory, MB",
  /** Files in the cache folder after the first opening. */
  written: "written, MB",
} as const;

const [FIRST, AGAIN] = ["first", "again"] as const;

/** Opens each contender twice in each round, by turns. @param prompt - of the short answer */
export function measureOpening(
  context: SuiteContext,
  specs: readonly ContenderSpec[],
  prompt: readonly number[],
): Promise<Interleaved> {
  const variants = specs.map((spec) => ({
    name: nameOf(spec),
    measure: (seed: number) => openTwice(context, spec, { prompt, seed }),
  }));
  return interleave(context, "opening", variants);
}

async function openTwice(
  { settings, folder }: SuiteContext,
  spec: ContenderSpec,
  { prompt, seed }: { readonly prompt: readonly number[]; readonly seed: number },
): Promise<readonly Figure[]> {
  const cacheFolder = await mkdtemp(join(folder, "cache-"));
  const workload = { warmUp: prompt, batches: [], newTokens: 0, longPrompts: [], contextTokens: 0, texts: [] };
  const open = { spec, threads: settings.threads, maxSequences: 1, seed, cacheFolder };
  const openOnce = async (at: string): Promise<readonly Figure[]> => {
    const figures = await measureInProcess(open, workload);
    const valueOf = (metric: string): number => figures.find((one) => one.metric === metric)?.value ?? NaN;
    return [
      { metric: OPENING.open, at, value: valueOf(METRICS.load) / 1000 },
      { metric: OPENING.peak, at, value: valueOf(METRICS.peak) },
    ];
  };
  try {
    const first = await openOnce(FIRST);
    const written = { metric: OPENING.written, at: FIRST, value: (await bytesIn(cacheFolder)) / 1e6 };
    return [...first, written, ...(await openOnce(AGAIN))];
  } finally {
    await rm(cacheFolder, { recursive: true, force: true });
  }
}

async function bytesIn(folder: string): Promise<number> {
  const names = await readdir(folder, { recursive: true });
  const states = await Promise.all(names.map((name) => stat(join(folder, name))));
  return states.reduce((sum, state) => sum + (state.isFile() ? state.size : 0), 0);
}
