// Tables of our engine against its peers: medians against the best peer, and ratios over rounds of turns.

import { distinct, type Sample, valuesOf } from "../kit/samples.ts";
import { formatNumber, type TableColumn } from "../kit/report.ts";
import { median, type Pair, ratioInterval, ratioOfMedians } from "../kit/statistics.ts";
import type { ReportTable } from "../kit/suite.ts";

export interface ComparedColumn extends TableColumn {
  readonly better: "higher" | "lower";
  /** Losses are compared by their difference. @default "ratio" */
  readonly compare?: "ratio" | "difference";
}

/** Compares a variant's median with the best peer's, as ratio or difference; `undefined` if either is missing. */
export function toBestPeer(
  samples: readonly Sample[],
  variant: string,
  column: ComparedColumn,
  isOurs: (variant: string) => boolean,
): number | undefined {
  const medianOf = (name: string): number => median(valuesOf(samples, { ...column, variant: name }));
  const peers = distinct(samples.map((one) => one.variant)).filter((name) => !isOurs(name));
  const values = peers.map(medianOf).filter((value) => !Number.isNaN(value));
  const ours = medianOf(variant);
  if (values.length === 0 || Number.isNaN(ours)) return undefined;
  const best = column.better === "higher" ? Math.max(...values) : Math.min(...values);
  return column.compare === "difference" ? ours - best : ours / best;
}

/** Makes a table with a row for each of our variants; `undefined` if nothing can be compared. */
export function bestPeerTable(
  samples: readonly Sample[],
  columns: readonly ComparedColumn[],
  isOurs: (variant: string) => boolean,
  title = "Ours by the best peer of each column",
): ReportTable | undefined {
  const ours = distinct(samples.map(({ variant }) => variant)).filter(isOurs);
  const rows = ours.map((variant) => [
    variant,
    ...columns.map((column) => relation(toBestPeer(samples, variant, column, isOurs), column)),
  ]);
  if (rows.every(([, ...cells]) => cells.every((cell) => cell === "–"))) return undefined;
  return { title, columns: ["", ...columns.map((column) => column.title)], rows };
}

function relation(value: number | undefined, { compare }: ComparedColumn): string {
  if (value === undefined) return "–";
  if (compare === "difference") return (value < 0 ? "" : "+") + value.toFixed(3);
  return `× ${value.toFixed(2)}`;
}

/** Makes a table of medians and ratios. @param samples - of one metric; rounds of both contenders are compared */
export function turnsTable(
  samples: readonly Sample[],
  {
    title,
    seed,
    isOurs,
    columnOf = (at) => `${at} at once`,
    method = "All are open at once, each in its own process, and take turns within seconds.",
  }: {
    readonly title: string;
    readonly seed: number;
    readonly isOurs: (name: string) => boolean;
    /** Formats a column's title. @default "8 at once" */
    readonly columnOf?: (at: number | string) => string;
    /** Sentences about the measurement. */
    readonly method?: string;
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
      ...variants.map((name) => [name, ...ats.map((at) => formatNumber(variantMedian(samples, name, at)))]),
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
    notes: [`${method} Ratios of medians over rounds, with 95 % bootstrap intervals.`],
  };
}

function variantMedian(samples: readonly Sample[], variant: string, at: number | string): number {
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
