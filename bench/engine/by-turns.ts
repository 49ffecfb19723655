// Measures contenders that are all open at once and take turns within seconds. The speed of a shared machine changes by
// the minute, and measurements in separate processes take longer than that.

import { setTimeout as sleep } from "node:timers/promises";
import { type Interleaved, turnsOf } from "../kit/turns.ts";
import type { Figure, Sample } from "../kit/samples.ts";
import { namesOf, type SuiteContext } from "../kit/suite.ts";
import type { BatchTimes } from "./child.ts";
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
}

/** One batch for all contenders. */
export interface TurnTask {
  readonly name: string;
  readonly numPrompts: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Counted batches of each contender for each round of the run; a quick run has one. @default 4 */
  readonly batches?: number;
  readonly figuresOf: (times: BatchTimes) => readonly Figure[];
  /** Measures the machine beside the contenders, once in each round. */
  readonly machine?: { readonly name: string; readonly measure: () => Promise<Figure> };
}

/** Measures the suite's tasks by turns. Returns no samples if there is only one contender. */
export async function measureTurns(
  context: SuiteContext,
  { specs, tokens, sizes }: TurnsOptions & { readonly sizes: WorkloadSizes },
): Promise<Interleaved> {
  const wanted = namesOf(context.settings, "turns", VARIANTS);
  const chosen = specs.filter(
    ({ variant, maxConcurrency }) => wanted.includes(variant) && maxConcurrency === undefined,
  );
  if (chosen.length < 2) return { samples: [], failures: new Map() };
  return measureTasks(context, turnTasks(sizes), { specs: chosen, tokens });
}

/** Measures contenders by turns. A task that fails is left out. */
export async function measureTasks(
  context: SuiteContext,
  tasks: readonly TurnTask[],
  { specs, tokens }: TurnsOptions,
): Promise<Interleaved> {
  const { keep, say, signal } = context;
  const samples: Sample[] = [];
  const failures = new Map<string, string>();
  for (const task of tasks) {
    try {
      samples.push(
        ...(await keep(`turns | ${task.name}`, () => {
          say(`by turns: ${specs.map(nameOf).join(", ")}: ${task.name}`);
          return turnsOn(context, task, { specs, tokens });
        })),
      );
    } catch (error) {
      signal?.throwIfAborted();
      failures.set(`by turns, ${task.name}`, error instanceof Error ? error.message : String(error));
    }
  }
  return { samples, failures };
}

/** Computes the speed of a batch from its beginning to its end. @param tokens - that count */
export function wholeSpeed(metric: string, at: number, tokens: number): TurnTask["figuresOf"] {
  return ({ elapsedMs }) => [{ metric, at, value: (tokens * 1000) / elapsedMs }];
}

function turnTasks({ concurrency, contexts, promptTokens, newTokens }: WorkloadSizes): readonly TurnTask[] {
  const batches = concurrency.filter((count) => count <= MOST_AT_ONCE);
  const prompts = contexts.filter((length) => length === PREFILL_TOKENS);
  return [
    ...batches.map((at) => ({
      name: `${at} at once`,
      numPrompts: at,
      promptTokens,
      newTokens,
      figuresOf: wholeSpeed(METRICS.byTurns, at, at * newTokens),
    })),
    ...prompts.map((length) => ({
      name: `prefill of ${length}`,
      numPrompts: 1,
      promptTokens: length,
      newTokens: 1,
      figuresOf: wholeSpeed(METRICS.prefillByTurns, length, length),
    })),
  ];
}

async function turnsOn(
  { settings, signal }: SuiteContext,
  task: TurnTask,
  { specs, tokens }: TurnsOptions,
): Promise<readonly Sample[]> {
  const { seed, threads, cacheFolder, quick, rounds } = settings;
  const { numPrompts, promptTokens, newTokens, figuresOf, machine, batches: counted = 4 } = task;
  const sizes = { concurrency: [numPrompts], promptTokens, newTokens, contexts: [], contextTokens: 0 };
  const open: OpenProcess[] = [];
  const samples: Sample[] = [];
  const add = (variant: string, figures: readonly Figure[], at: { readonly round: number; readonly turn: number }) =>
    samples.push(...figures.map((figure) => ({ at: "", ...figure, variant, ...at })));
  try {
    const common = { threads, maxSequences: numPrompts, tokensEach: promptTokens + newTokens, seed, cacheFolder };
    for (const spec of specs) open.push(await OpenProcess.start({ spec, ...common }, sizes));
    // The first round warms up and is not counted.
    const turns = turnsOf(specs.length, 1 + (quick ? 1 : counted * rounds));
    for (const [turn, { variant, round }] of turns.entries()) {
      signal?.throwIfAborted();
      const beginsRound = round > 0 && turn % specs.length === 0;
      if (machine && beginsRound) add(machine.name, [await machine.measure()], { round, turn });
      const { batches } = drawPrompts(tokens, sizes, seed + round);
      const times = await (open[variant] as OpenProcess).generate(batches[0] ?? [], newTokens);
      if (!quick) await sleep(REST_MS);
      if (round > 0) add(nameOf(specs[variant] as ContenderSpec), figuresOf(times), { round, turn });
    }
    // Sorted as in tables: a round may have begun with the last contender.
    const names = [...specs.map(nameOf), ...(machine ? [machine.name] : [])];
    return names.flatMap((name) => samples.filter(({ variant }) => variant === name));
  } finally {
    for (const one of open) await one.close();
  }
}
