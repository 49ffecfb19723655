// Runs one workload through one engine with its current settings.

import type { ReadMeEngine } from "@readme-moe/engine";
import { mean } from "../kit/statistics.ts";
import type { Request } from "./workload.ts";

export interface Measured {
  /** Latency of each request from its arrival to its last token, divided by its output tokens. */
  readonly meanMsPerToken: number;
  readonly p95MsPerToken: number;
  readonly meanFirstTokenMs: number;
  readonly tokensPerSecond: number;
  /** Mean over steps. */
  readonly distinctExperts: number;
  readonly steps: number;
  /** Mean of |predicted - actual| / actual. */
  readonly predictionError: number;
  /** `undefined` when all experts are in memory. */
  readonly hitRatio: number | undefined;
  readonly megabytesRead: number | undefined;
  readonly residentMegabytes: number;
}

/** @param concurrency - concurrent requests; each finished request is followed by the next */
export async function measure(
  engine: ReadMeEngine,
  requests: readonly Request[],
  concurrency: number,
): Promise<Measured> {
  const before = await engine.stats();
  const distinct: number[] = [];
  const errors: number[] = [];
  const onScheduled = (step: { readonly distinctExperts: number; readonly sequenceIds: readonly string[] }): void => {
    if (step.sequenceIds.length > 0) distinct.push(step.distinctExperts);
  };
  const onCompleted = (step: { readonly durationMs: number; readonly predictedMs: number }): void => {
    errors.push(Math.abs(step.predictedMs - step.durationMs) / step.durationMs);
  };
  engine.events.on("batch:scheduled", onScheduled);
  engine.events.on("batch:completed", onCompleted);
  const perToken: number[] = [];
  const firsts: number[] = [];
  const left = [...requests];
  let tokens = 0;
  const startMs = performance.now();
  const client = async (): Promise<void> => {
    for (let request = left.shift(); request; request = left.shift()) {
      const askedMs = performance.now();
      let own = 0;
      const params = { temperature: 0, maxTokens: request.outputTokens, ignoreEos: true };
      for await (const chunk of engine.generate({ prompt: request.prompt, params })) {
        if (own === 0 && chunk.tokens.length > 0) firsts.push(performance.now() - askedMs);
        own += chunk.tokens.length;
      }
      perToken.push((performance.now() - askedMs) / own);
      tokens += own;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, client));
  const seconds = (performance.now() - startMs) / 1000;
  engine.events.off("batch:scheduled", onScheduled);
  engine.events.off("batch:completed", onCompleted);
  const { expertCache, residentBytes } = await engine.stats();
  const sorted = perToken.toSorted((a, b) => a - b);
  return {
    meanMsPerToken: mean(perToken),
    p95MsPerToken: sorted[Math.min(sorted.length - 1, Math.floor(0.95 * sorted.length))] as number,
    meanFirstTokenMs: mean(firsts),
    tokensPerSecond: tokens / seconds,
    distinctExperts: mean(distinct),
    steps: distinct.length,
    predictionError: mean(errors),
    hitRatio:
      expertCache &&
      (expertCache.hits - (before.expertCache?.hits ?? 0)) / (expertCache.uses - (before.expertCache?.uses ?? 0)),
    megabytesRead: expertCache && (expertCache.bytesRead - (before.expertCache?.bytesRead ?? 0)) / 1e6,
    residentMegabytes: residentBytes / 1e6,
  };
}
