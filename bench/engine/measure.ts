// Measures one contender in its own process.

import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import type { Figure } from "../kit/samples.ts";
import { median } from "../kit/statistics.ts";
import type { Contender } from "./contender.ts";
import { METRICS } from "./metrics.ts";
import { peakMemoryBytes } from "./process-memory.ts";
import type { Workload } from "./workload.ts";

const LOOP_REQUESTS = 8;
const MONITOR_PERIOD_MS = 5;
const WARM_UP_TOKENS = 8;
const NS_PER_MS = 1e6;

export async function measure(open: () => Promise<Contender>, workload: Workload): Promise<readonly Figure[]> {
  const [contender, loadMs] = await timed(open);
  const figures: Figure[] = [{ metric: METRICS.load, value: loadMs }];
  const { warmUp, texts } = workload;
  const peakMegabytes = (): number => peakMemoryBytes(contender.processId ?? process.pid) / 1e6;
  try {
    await contender.reserve?.(1, warmUp.length + WARM_UP_TOKENS);
    await contender.generate([warmUp], WARM_UP_TOKENS);
    for (const prompts of workload.batches)
      figures.push(...(await measureBatch(contender, prompts, workload.newTokens)));
    figures.push({ metric: METRICS.peak, value: peakMegabytes() });
    for (const prompt of workload.longPrompts)
      figures.push(...(await measureContext(contender, prompt, workload.contextTokens)));
    if (workload.longPrompts.length > 0) {
      figures.push({ metric: METRICS.contextPeak, value: peakMegabytes() });
    }
    if (texts.length > 0) figures.push({ metric: METRICS.loss, value: await meanLoss(contender, texts) });
    return figures;
  } finally {
    await contender.dispose();
  }
}

/** Measures new tokens per second of all requests together, from the first start to the last end. */
async function measureBatch(
  contender: Contender,
  prompts: readonly (readonly number[])[],
  newTokens: number,
): Promise<readonly Figure[]> {
  const at = prompts.length;
  await contender.reserve?.(at, (prompts[0]?.length ?? 0) + newTokens);
  const monitor = monitorEventLoopDelay({ resolution: MONITOR_PERIOD_MS });
  monitor.enable();
  // The monitor measures delays between two of its periods only, also if the loop blocks between them.
  await sleep(2 * MONITOR_PERIOD_MS);
  const [firstMs, elapsedMs] = await timed(() => contender.generate(prompts, newTokens));
  await sleep(2 * MONITOR_PERIOD_MS);
  monitor.disable();
  const figures = [
    { metric: METRICS.decode, at, value: (at * newTokens * 1000) / elapsedMs },
    { metric: METRICS.first, at, value: median(firstMs) },
  ];
  if (at !== LOOP_REQUESTS) return figures;
  return [
    ...figures,
    { metric: METRICS.loopP99, value: monitor.percentile(99) / NS_PER_MS },
    { metric: METRICS.loopMax, value: monitor.max / NS_PER_MS },
  ];
}

/** Measures one request with a long prompt: the speed of prefill, and of decode after it. */
async function measureContext(
  contender: Contender,
  prompt: readonly number[],
  newTokens: number,
): Promise<readonly Figure[]> {
  await contender.reserve?.(1, prompt.length + newTokens);
  const [[firstMs = NaN], elapsedMs] = await timed(() => contender.generate([prompt], newTokens));
  const at = prompt.length;
  return [
    { metric: METRICS.prefill, at, value: (at * 1000) / firstMs },
    { metric: METRICS.contextDecode, at, value: ((newTokens - 1) * 1000) / (elapsedMs - firstMs) },
  ];
}

async function meanLoss(contender: Contender, texts: Workload["texts"]): Promise<number> {
  const sums = await contender.logProbabilities(texts.flat());
  let next = 0;
  const losses = texts.map((sequences) => {
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.length - 1, 0);
    return sequences.reduce((sum) => sum - (sums[next++] ?? NaN), 0) / tokens;
  });
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

async function timed<Result>(work: () => Promise<Result>): Promise<readonly [Result, number]> {
  const startMs = performance.now();
  const result = await work();
  return [result, performance.now() - startMs];
}
