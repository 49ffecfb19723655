// Measures contenders that are all open at once and take turns within seconds. The speed of a shared machine changes by
// the minute, and measurements in separate processes take longer than that.

import { setTimeout as sleep } from "node:timers/promises";
import { type Interleaved, turnsOf } from "../kit/turns.ts";
import type { Sample } from "../kit/samples.ts";
import { namesOf, type SuiteContext } from "../kit/suite.ts";
import { OpenProcess } from "./contender-process.ts";
import { type ContenderSpec, nameOf } from "./contender.ts";
import { METRICS } from "./metrics.ts";
import { drawPrompts, type WorkloadSizes } from "./workload.ts";

/** Variants of eight bits, by the names of each engine; `--set turns=` replaces them. */
const VARIANTS = ["int8", "q8", "Q8_0"];
/** Most requests at once: more take too long, and all contenders are in memory. */
const MOST_AT_ONCE = 32;
/** Length of the prompt whose prefill is compared; other lengths are measured in separate processes only. */
const PREFILL_TOKENS = 512;
/** Pause after a batch: threads of some engines spin for half a second and more. */
const REST_MS = 1500;

export interface TurnsOptions {
  readonly specs: readonly ContenderSpec[];
  /** Token ids that prompts are drawn from. */
  readonly tokens: readonly number[];
  readonly sizes: WorkloadSizes;
}

/** Measures contenders by turns. Returns no samples if there is only one. */
export async function measureTurns(
  context: SuiteContext,
  { specs, tokens, sizes }: TurnsOptions,
): Promise<Interleaved> {
  const { settings, keep, say, signal } = context;
  const wanted = namesOf(settings, "turns", VARIANTS);
  const chosen = specs.filter(
    ({ variant, maxConcurrency }) => wanted.includes(variant) && maxConcurrency === undefined,
  );
  const samples: Sample[] = [];
  const failures = new Map<string, string>();
  if (chosen.length < 2) return { samples, failures };
  for (const task of turnTasks(sizes)) {
    try {
      samples.push(
        ...(await keep(`turns | ${task.name}`, () => {
          say(`by turns: ${chosen.map(nameOf).join(", ")}: ${task.name}`);
          return turnsOn(context, task, { specs: chosen, tokens });
        })),
      );
    } catch (error) {
      signal?.throwIfAborted();
      failures.set(`by turns, ${task.name}`, error instanceof Error ? error.message : String(error));
    }
  }
  return { samples, failures };
}

/** One batch for all contenders. */
interface TurnTask {
  readonly name: string;
  readonly metric: string;
  readonly at: number;
  readonly numPrompts: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Tokens that count in the speed. */
  readonly countedTokens: number;
}

function turnTasks({ concurrency, contexts, promptTokens, newTokens }: WorkloadSizes): readonly TurnTask[] {
  const batches = concurrency.filter((count) => count <= MOST_AT_ONCE);
  const prompts = contexts.filter((length) => length === PREFILL_TOKENS);
  return [
    ...batches.map((at) => ({
      name: `${at} at once`,
      metric: METRICS.byTurns,
      at,
      numPrompts: at,
      promptTokens,
      newTokens,
      countedTokens: at * newTokens,
    })),
    ...prompts.map((length) => ({
      name: `prefill of ${length}`,
      metric: METRICS.prefillByTurns,
      at: length,
      numPrompts: 1,
      promptTokens: length,
      newTokens: 1,
      countedTokens: length,
    })),
  ];
}

async function turnsOn(
  { settings, signal }: SuiteContext,
  task: TurnTask,
  { specs, tokens }: Omit<TurnsOptions, "sizes">,
): Promise<readonly Sample[]> {
  const { seed, threads, cacheFolder, quick, rounds } = settings;
  const { metric, at, numPrompts, promptTokens, newTokens, countedTokens } = task;
  const sizes = { concurrency: [numPrompts], promptTokens, newTokens, contexts: [], contextTokens: 0 };
  const open: OpenProcess[] = [];
  const samples: Sample[] = [];
  try {
    for (const spec of specs) {
      open.push(await OpenProcess.start({ spec, threads, maxSequences: numPrompts, seed, cacheFolder }, sizes));
    }
    // The first round warms up and is not counted.
    const turns = turnsOf(specs.length, 1 + (quick ? 1 : 4 * rounds));
    for (const [turn, { variant, round }] of turns.entries()) {
      signal?.throwIfAborted();
      const { batches } = drawPrompts(tokens, sizes, seed + round);
      const elapsedMs = await (open[variant] as OpenProcess).generate(batches[0] ?? [], newTokens);
      if (!quick) await sleep(REST_MS);
      if (round === 0) continue;
      const value = (countedTokens * 1000) / elapsedMs;
      samples.push({ metric, at, value, variant: nameOf(specs[variant] as ContenderSpec), round, turn });
    }
    // Sorted as in tables: a round may have begun with the last contender.
    return specs.flatMap((spec) => samples.filter(({ variant }) => variant === nameOf(spec)));
  } finally {
    for (const one of open) await one.close();
  }
}
