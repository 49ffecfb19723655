// Ours beside the best peer, whichever that is in a column.

import { distinct, type Sample, valuesOf } from "../kit/sample.ts";
import { median } from "../kit/statistics.ts";
import type { TableColumn } from "../kit/summary-table.ts";
import type { ReportTable } from "../kit/suite.ts";

export interface ComparedColumn extends TableColumn {
  readonly better: "higher" | "lower";
  /** Losses are compared by their difference. @default "ratio" */
  readonly compare?: "ratio" | "difference";
}

/** Of a variant in a column: its median by that of the best peer, or less it. `undefined` where either side has none. */
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

/** A row for each of ours; `undefined` where nothing can be compared. */
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
