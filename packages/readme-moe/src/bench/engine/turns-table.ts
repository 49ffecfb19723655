// Contenders that took turns: how fast each was, and how many times as fast as each peer ours were.

import { distinct, type Sample } from "../kit/sample.ts";
import { type Pair, ratioInterval, ratioOfMedians } from "../kit/ratio.ts";
import { median } from "../kit/statistics.ts";
import type { ReportTable } from "../kit/suite.ts";
import { formatNumber } from "../kit/summary-table.ts";

/** @param samples - of one metric; rounds in which all took turns are compared */
export function turnsTable(
  samples: readonly Sample[],
  {
    title,
    seed,
    isOurs,
    columnOf = (at) => `${at} at once`,
  }: {
    readonly title: string;
    readonly seed: number;
    readonly isOurs: (name: string) => boolean;
    /** Titles a column. @default "8 at once" */
    readonly columnOf?: (at: number | string) => string;
  },
): ReportTable | undefined {
  const variants = distinct(samples.map(({ variant }) => variant));
  const ats = distinct(samples.map(({ at }) => at));
  if (variants.length === 0) return undefined;
  const peers = variants.filter((name) => !isOurs(name));
  const pairs = variants.filter(isOurs).flatMap((ours) => peers.map((peer) => ({ ours, peer })));
  return {
    title,
    columns: ["", ...ats.map(columnOf)],
    rows: [
      ...variants.map((name) => [name, ...ats.map((at) => formatNumber(medianOf(samples, name, at)))]),
      ...pairs.map(({ ours, peer }) => [
        `${ours} / ${peer}`,
        ...ats.map((at) =>
          ratioCell(
            samples.filter((one) => one.at === at),
            ours,
            peer,
            seed,
          ),
        ),
      ]),
    ],
    notes: [
      "All are open at once, each in a process of its own, and take turns within seconds. Ratios of medians over rounds, with the interval in which 95 % of resampled rounds have it.",
    ],
  };
}

function medianOf(samples: readonly Sample[], variant: string, at: number | string): number {
  return median(samples.filter((one) => one.variant === variant && one.at === at).map(({ value }) => value));
}

function ratioCell(samples: readonly Sample[], ours: string, peer: string, seed: number): string {
  const rounds: readonly Pair[] = distinct(samples.map(({ round }) => round)).flatMap((round) => {
    const valueOf = (variant: string) => samples.find((one) => one.round === round && one.variant === variant)?.value;
    const [own, other] = [valueOf(ours), valueOf(peer)];
    return own === undefined || other === undefined ? [] : [[own, other] as const];
  });
  const interval = ratioInterval(rounds, seed);
  const text = formatNumber(ratioOfMedians(rounds), 2);
  return interval ? `${text} (${formatNumber(interval.low, 2)} to ${formatNumber(interval.high, 2)})` : text;
}
