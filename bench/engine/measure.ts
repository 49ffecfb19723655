// What is measured of one contender, in the process that it has for itself.

import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Contender } from "./contender.ts";
import { treePeakBytes } from "./memory.ts";
import type { Workload } from "./workload.ts";

/** How late the main thread's event loop is, in milliseconds; the monitor's own period is in it. */
interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

export interface Measurements {
  /** Importing the library and opening the model, with files in the system's cache. */
  readonly loadMs: number;
  /** New tokens a second of all requests together, from the first request's start to the last one's end; by their number. */
  readonly decodeTokensPerSecond: Readonly<Record<number, number>>;
  readonly prefillTokensPerSecond: number;
  /** Of the contender's processes together, before the evaluation. */
  readonly peakBytes: number;
  /** While 8 requests run; absent when the workload has no such batch. */
  readonly loopDelayMs?: LoopDelay;
  /** Mean over files of the mean loss of their tokens, nats; of the first repetition only. */
  readonly loss?: number;
}

const LOOP_REQUESTS = 8;
const MONITOR_PERIOD_MS = 5;
const WARM_UP_TOKENS = 8;
const NS_PER_MS = 1e6;

export async function measure(open: () => Promise<Contender>, workload: Workload): Promise<Measurements> {
  const [contender, loadMs] = await timed(open);
  const { warmUp, batches, newTokens, longPrompt, texts } = workload;
  try {
    await contender.reserve?.(1, warmUp.length + WARM_UP_TOKENS);
    await contender.generate([warmUp], WARM_UP_TOKENS);

    const decodeTokensPerSecond: Record<number, number> = {};
    let loopDelayMs: LoopDelay | undefined;
    for (const prompts of batches) {
      await contender.reserve?.(prompts.length, (prompts[0]?.length ?? 0) + newTokens);
      const monitor = monitorEventLoopDelay({ resolution: MONITOR_PERIOD_MS });
      monitor.enable();
      const [, elapsedMs] = await timed(() => contender.generate(prompts, newTokens));
      monitor.disable();
      decodeTokensPerSecond[prompts.length] = (prompts.length * newTokens * 1000) / elapsedMs;
      if (prompts.length === LOOP_REQUESTS) loopDelayMs = delayOf(monitor);
    }

    await contender.reserve?.(1, longPrompt.length + 1);
    const [, prefillMs] = await timed(() => contender.generate([longPrompt], 1));
    const peakBytes = treePeakBytes(process.pid);
    return {
      loadMs,
      decodeTokensPerSecond,
      prefillTokensPerSecond: (longPrompt.length * 1000) / prefillMs,
      peakBytes,
      ...(loopDelayMs ? { loopDelayMs } : {}),
      ...(texts.length > 0 ? { loss: await meanLoss(contender, texts) } : {}),
    };
  } finally {
    await contender.dispose();
  }
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

function delayOf(monitor: ReturnType<typeof monitorEventLoopDelay>): LoopDelay {
  const [p50, p99, max] = [monitor.percentile(50), monitor.percentile(99), monitor.max];
  return { p50: p50 / NS_PER_MS, p99: p99 / NS_PER_MS, max: max / NS_PER_MS };
}
