// Figures of an overload, computed from its answers.

import { mean, percentile } from "../../kit/statistics.ts";
import type { Sample } from "../../kit/samples.ts";
import type { Target } from "../../kit/suite.ts";
import type { Answer } from "../client.ts";
import { targetUnder } from "./targets.ts";

/** Load, and outcomes of its requests. */
export interface Load {
  readonly tokensPerSecond: number;
  /** Times to the first token of answered requests. */
  readonly firstMs: readonly number[];
  /** Times to the rejection of rejected requests. */
  readonly refusedMs: readonly number[];
  /** Requests neither answered nor rejected. */
  readonly numLost: number;
}

export function loadOf(answers: readonly Answer[], tokensPerSecond: number): Load {
  const answered = answers.filter(isAnswer);
  const refused = answers.filter(isRefusal);
  return {
    tokensPerSecond,
    firstMs: answered.map(({ firstMs }) => firstMs),
    refusedMs: refused.map(({ totalMs }) => totalMs),
    numLost: answers.length - answered.length - refused.length,
  };
}

export function overloadSamples(calm: readonly Load[], crowded: readonly Load[]): readonly Sample[] {
  const figures = (variant: string, round: number, turn: number, load: Load): readonly Sample[] =>
    Object.entries({
      "new tokens, tok/s": load.tokensPerSecond,
      "first token p50, ms": percentile(load.firstMs, 50),
      "first token p95, ms": percentile(load.firstMs, 95),
      "first token p99, ms": percentile(load.firstMs, 99),
      answered: load.firstMs.length,
      refused: load.refusedMs.length,
      "refusal p50, ms": percentile(load.refusedMs, 50),
      "refusal p99, ms": percentile(load.refusedMs, 99),
    })
      .filter(([, value]) => Number.isFinite(value))
      .map(([metric, value]) => ({ metric, at: "", value, variant, round, turn }));
  return [
    ...calm.flatMap((load, round) => figures("closed loop", round, 2 * round, load)),
    ...crowded.flatMap((load, round) => figures("twice the capacity", round, 2 * round + 1, load)),
  ];
}

/** @param calm - one more than `crowded`: before, between and after them */
export function overloadTargets(calm: readonly Load[], crowded: readonly Load[]): readonly Target[] {
  const pooled = (of: readonly Load[], key: "firstMs" | "refusedMs"): readonly number[] =>
    of.flatMap((one) => one[key]);
  const losses = crowded.map(({ tokensPerSecond }, index) => {
    const around = mean(calm.slice(index, index + 2).map((each) => each.tokensPerSecond));
    return 100 * (1 - tokensPerSecond / around);
  });
  // Time with all places always taken, and a half more for bursts of arrivals.
  const firstLimit = Math.round(1.5 * percentile(pooled(calm, "firstMs"), 99));
  return [
    targetUnder("overload: refusals, p99", percentile(pooled(crowded, "refusedMs"), 99), "ms", 20),
    targetUnder("overload: first token, p99", percentile(pooled(crowded, "firstMs"), 99), "ms", firstLimit),
    targetUnder("overload: throughput lost", mean(losses), "%", 2),
    targetUnder(
      "overload: neither answered nor refused",
      crowded.reduce((sum, { numLost }) => sum + numLost, 0),
      "requests",
      1,
    ),
  ];
}

function isRefusal({ status, errorCode }: Answer): boolean {
  return status === 503 && errorCode === "server_overloaded";
}

function isAnswer({ status, isWhole, errorCode }: Answer): boolean {
  return status === 200 && isWhole && errorCode === undefined;
}
