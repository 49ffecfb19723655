// What was wanted of the engine beside its peers, and of itself.

import { distinct, type Sample, valuesOf } from "../kit/sample.ts";
import { median } from "../kit/statistics.ts";
import type { Target } from "../kit/suite.ts";
import { METRICS } from "./metrics.ts";

const PREFILL_TOKENS = 512;
const WANTED = {
  /** Of int8 against the best peer, by requests at once. */
  decode: { 1: 1.5, 8: 2.7, 16: 3, 32: 3.2 } as Readonly<Record<number, number>>,
  /** The same of the fastest of our precisions that lose next to nothing. */
  bestPrecision: 1.8,
  /** Of int8 against the best peer, and against the fastest that loses little. */
  prefill: 1.3,
  prefillOfExact: 1.9,
  loadMs: 2000,
  peakMegabytes: 700,
} as const;
/** Over float32. */
const [NEXT_TO_NOTHING_NATS, LITTLE_NATS] = [0.02, 0.05] as const;
/** Memory is wanted for so many requests; it is measured after the most that there were. */
const PEAK_AT_ONCE = 32;

export interface MeasuredEngines {
  /** Of contenders that had a process and a minute of their own, and those of turns within seconds. */
  readonly samples: readonly Sample[];
  /** Requests at once. */
  readonly concurrency: readonly number[];
  readonly isOurs: (variant: string) => boolean;
}

/** What was not measured is left out; all is where there is no int8 of ours. */
export function engineTargets(measured: MeasuredEngines): readonly Target[] {
  const { samples, concurrency, isOurs } = measured;
  const variants = distinct(samples.map(({ variant }) => variant));
  const int8 = ["readme-moe dense int8", "readme-moe int8"].find((name) => variants.includes(name));
  if (int8 === undefined) return [];
  const prefix = int8.slice(0, -"int8".length);
  const of = (variant: string, metric: string, at: number | "" = ""): number =>
    median(valuesOf(samples, { variant, metric, at }));
  const lossNats = (variant: string): number => of(variant, METRICS.loss) - of(`${prefix}fp32`, METRICS.loss);
  const peers = variants.filter((name) => !isOurs(name));
  const exactOurs = variants.filter((name) => name.startsWith(prefix) && lossNats(name) < NEXT_TO_NOTHING_NATS);
  const exactPeers = peers.filter((name) => lossNats(name) < LITTLE_NATS);
  // What took turns within seconds says more of ratios than what had a process and a minute of its own.
  const speed = samples.some(({ metric }) => metric === METRICS.byTurns) ? METRICS.byTurns : METRICS.decode;
  const best = (names: readonly string[], metric: string, at: number): number =>
    most(names.map((name) => of(name, metric, at)));
  const prefill = (rivals: readonly string[]): number =>
    of(int8, METRICS.prefill, PREFILL_TOKENS) / best(rivals, METRICS.prefill, PREFILL_TOKENS);
  const under = (what: string, value: number, unit: string, limit: number): Target => ({
    what: `${int8}, ${what}`,
    value,
    unit,
    wanted: "under",
    limit,
  });
  return [
    ...concurrency.flatMap((at) => {
      const limit = WANTED.decode[at];
      const ratio = of(int8, speed, at) / best(peers, speed, at);
      return limit === undefined ? [] : times(`${int8}, ${at} at once`, ratio, limit);
    }),
    times(
      `the fastest of ${prefix.trim()} that loses under ${NEXT_TO_NOTHING_NATS} nats, 1 at once`,
      best(exactOurs, speed, 1) / best(peers, speed, 1),
      WANTED.bestPrecision,
    ),
    times(`${int8}, prefill of ${PREFILL_TOKENS}`, prefill(peers), WANTED.prefill),
    times(
      `${int8}, prefill of ${PREFILL_TOKENS}`,
      prefill(exactPeers),
      WANTED.prefillOfExact,
      `the fastest that loses under ${LITTLE_NATS} nats`,
    ),
    under("loss over fp32", lossNats(int8), "nats", NEXT_TO_NOTHING_NATS),
    under("loading", of(int8, METRICS.load), "ms", WANTED.loadMs),
    ...(Math.max(...concurrency) === PEAK_AT_ONCE
      ? [under(`peak memory, ${PEAK_AT_ONCE} at once`, of(int8, METRICS.peak), "MB", WANTED.peakMegabytes)]
      : []),
  ].filter(({ value }) => Number.isFinite(value));
}

function times(what: string, value: number, limit: number, rival = "the best peer"): Target {
  return { what, value, unit: `× ${rival}`, wanted: "over", limit };
}

/** NaN of none. */
function most(values: readonly number[]): number {
  const measured = values.filter(Number.isFinite);
  return measured.length > 0 ? Math.max(...measured) : NaN;
}
