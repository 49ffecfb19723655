// Targets of the engine against its peers, and absolute ones.

import { distinct, type Sample, valuesOf } from "../kit/samples.ts";
import { median } from "../kit/statistics.ts";
import type { Target } from "../kit/suite.ts";
import { METRICS } from "./metrics.ts";

/**
 * Peers that Node programs use, with weights of 8 bits. OpenVINO is faster and no Node library: it is compared alone.
 */
const NODE_RIVALS: readonly string[] = ["transformers.js q8", "node-llama-cpp Q8_0"];

/** OpenVINO GenAI with weights of 8 bits, in a Python process. */
const OPENVINO = "openvino int8";

export function isOpenVino(variant: string): boolean {
  return variant.startsWith("openvino ");
}

const PREFILL_TOKENS = 512;

interface Wanted {
  readonly limit: number;
  readonly aim?: number;
}

const WANTED = {
  /** Int8 against the better Node peer, by requests at once. */
  decode: { 1: { limit: 2.4 }, 8: { limit: 3.2 }, 16: { limit: 2.7 }, 32: { limit: 2.7 } },
  decodeBesideOpenVino: {
    1: { limit: 1.6, aim: 1.9 },
    8: { limit: 1.25, aim: 1.4 },
    16: { limit: 1.2, aim: 1.3 },
    32: { limit: 1.1, aim: 1.2 },
  },
  /** The fastest of our precisions with next to no loss, against the better Node peer. */
  bestPrecision: { limit: 1.8 },
  /** Int8 against the better Node peer, against Node peers with little loss, and against OpenVINO. */
  prefill: { limit: 1.3 },
  prefillOfExact: { limit: 1.9 },
  prefillBesideOpenVino: { limit: 0.9, aim: 1 },
  loadMs: 2000,
  peakMegabytes: 700,
} as const;
const BETTER_RIVAL = `the better of ${NODE_RIVALS.join(" and ")}`;
/** Losses over float32. */
const [NEXT_TO_NOTHING_NATS, LITTLE_NATS] = [0.02, 0.05] as const;
/** Requests at once of the memory target; memory is measured after the largest batch. */
const PEAK_AT_ONCE = 32;

export interface MeasuredEngines {
  /** Samples of separate processes, and of turns within seconds. */
  readonly samples: readonly Sample[];
  /** Requests at once. */
  readonly concurrency: readonly number[];
  readonly isOurs: (variant: string) => boolean;
}

/** Compares samples with the targets. Leaves out missing ones, and all without our int8. */
export function engineTargets(measured: MeasuredEngines): readonly Target[] {
  const { samples, concurrency, isOurs } = measured;
  const variants = distinct(samples.map(({ variant }) => variant));
  const int8 = ["readme-moe dense int8", "readme-moe int8"].find((name) => variants.includes(name));
  if (int8 === undefined) return [];
  const prefix = int8.slice(0, -"int8".length);
  const of = (variant: string, metric: string, at: number | "" = ""): number =>
    median(valuesOf(samples, { variant, metric, at }));
  const lossNats = (variant: string): number => of(variant, METRICS.loss) - of(`${prefix}fp32`, METRICS.loss);
  const exactOurs = variants.filter((name) => name.startsWith(prefix) && lossNats(name) < NEXT_TO_NOTHING_NATS);
  const exactInNode = variants.filter((name) => !isOurs(name) && !isOpenVino(name) && lossNats(name) < LITTLE_NATS);
  // Turns within seconds give better ratios than separate processes.
  const measuredBy = (byTurns: string, alone: string): string =>
    samples.some(({ metric }) => metric === byTurns) ? byTurns : alone;
  const speed = measuredBy(METRICS.byTurns, METRICS.decode);
  const prefillSpeed = measuredBy(METRICS.prefillByTurns, METRICS.prefill);
  const best = (names: readonly string[], metric: string, at: number): number =>
    most(names.map((name) => of(name, metric, at)));
  const decodes = (
    rivals: readonly string[],
    wanted: Readonly<Record<number, Wanted>>,
    rival: string,
  ): readonly Target[] =>
    concurrency.flatMap((at) => {
      const ratio = of(int8, speed, at) / best(rivals, speed, at);
      return wanted[at] === undefined ? [] : times(`${int8}, ${at} at once`, ratio, wanted[at], rival);
    });
  const prefill = (rivals: readonly string[], metric: string, wanted: Wanted, rival: string): Target => {
    const ratio = of(int8, metric, PREFILL_TOKENS) / best(rivals, metric, PREFILL_TOKENS);
    return times(`${int8}, prefill of ${PREFILL_TOKENS}`, ratio, wanted, rival);
  };
  const under = (what: string, value: number, unit: string, limit: number): Target => ({
    what: `${int8}, ${what}`,
    value,
    unit,
    wanted: "under",
    limit,
  });
  return [
    ...decodes([OPENVINO], WANTED.decodeBesideOpenVino, OPENVINO),
    ...decodes(NODE_RIVALS, WANTED.decode, BETTER_RIVAL),
    times(
      `the fastest of ${prefix.trim()} that loses under ${NEXT_TO_NOTHING_NATS} nats, 1 at once`,
      best(exactOurs, speed, 1) / best(NODE_RIVALS, speed, 1),
      WANTED.bestPrecision,
      BETTER_RIVAL,
    ),
    prefill([OPENVINO], prefillSpeed, WANTED.prefillBesideOpenVino, OPENVINO),
    prefill(NODE_RIVALS, prefillSpeed, WANTED.prefill, BETTER_RIVAL),
    // Contenders in other precisions take no turns.
    prefill(
      exactInNode,
      METRICS.prefill,
      WANTED.prefillOfExact,
      `the fastest in Node that loses under ${LITTLE_NATS} nats`,
    ),
    under("loss over fp32", lossNats(int8), "nats", NEXT_TO_NOTHING_NATS),
    under("loading", of(int8, METRICS.load), "ms", WANTED.loadMs),
    ...(Math.max(...concurrency) === PEAK_AT_ONCE
      ? [under(`peak memory, ${PEAK_AT_ONCE} at once`, of(int8, METRICS.peak), "MB", WANTED.peakMegabytes)]
      : []),
  ].filter(({ value }) => Number.isFinite(value));
}

function times(what: string, value: number, wanted: Wanted, rival: string): Target {
  return { what, value, unit: `× ${rival}`, wanted: "over", ...wanted };
}

/** Returns the largest finite value; NaN without any. */
function most(values: readonly number[]): number {
  const measured = values.filter(Number.isFinite);
  return measured.length > 0 ? Math.max(...measured) : NaN;
}
