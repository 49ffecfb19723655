// Figures of an open loop's answers: percentiles, and the answers per second within the limits.

import type { Figure } from "../kit/samples.ts";
import { mean, percentile } from "../kit/statistics.ts";
import type { Answer } from "../express/client.ts";

export interface Limits {
  readonly firstMs: number;
  readonly perTokenMs: number;
}

export const SERVER_METRICS = {
  goodput: "goodput, requests/s",
  kept: "kept to the limits, %",
  firstP50: "first token p50, ms",
  firstP95: "first token p95, ms",
  firstP99: "first token p99, ms",
  tokenP50: "per token p50, ms",
  tokenP95: "per token p95, ms",
  tokenP99: "per token p99, ms",
  unanswered: "not answered, %",
} as const;

/** Milliseconds per token after the first. */
export function perTokenMs({ firstMs, totalMs, completionTokens }: Answer): number {
  return completionTokens > 1 ? (totalMs - firstMs) / (completionTokens - 1) : 0;
}

export function isAnswered({ status, isWhole, errorCode }: Answer): boolean {
  return status === 200 && isWhole && errorCode === undefined;
}

/** Latencies cover answered requests; goodput counts unanswered ones as missed. */
export function goodputFigures(
  at: number,
  answers: readonly Answer[],
  seconds: number,
  limits: Limits,
): readonly Figure[] {
  const answered = answers.filter(isAnswered);
  const kept = answered.filter((one) => one.firstMs <= limits.firstMs && perTokenMs(one) <= limits.perTokenMs);
  const [first, token] = [answered.map(({ firstMs }) => firstMs), answered.map(perTokenMs)];
  const share = (count: number): number => (100 * count) / Math.max(1, answers.length);
  const latencies = ([50, 95, 99] as const).flatMap((percent) => [
    { metric: SERVER_METRICS[`firstP${percent}`], at, value: percentile(first, percent) },
    { metric: SERVER_METRICS[`tokenP${percent}`], at, value: percentile(token, percent) },
  ]);
  return [
    { metric: SERVER_METRICS.goodput, at, value: kept.length / seconds },
    { metric: SERVER_METRICS.kept, at, value: share(kept.length) },
    // Without answers there is no latency.
    ...(answered.length > 0 ? latencies : []),
    { metric: SERVER_METRICS.unanswered, at, value: share(answers.length - answered.length) },
  ];
}

/** Returns the tokens per second of answers that all began at once. */
export function tokensPerSecond(answers: readonly Answer[], elapsedMs: number): number {
  const unanswered = answers.find((answer) => !isAnswered(answer));
  if (unanswered) throw new Error(`Expected answers only, got ${unanswered.status} ${unanswered.errorCode ?? ""}`);
  return (answers.length * mean(answers.map(({ completionTokens }) => completionTokens)) * 1000) / elapsedMs;
}
