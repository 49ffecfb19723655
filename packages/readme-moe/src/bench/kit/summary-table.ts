// Samples as a table: a row for each variant, a column for each condition of each metric.

import { distinct, type Sample, valuesOf } from "./sample.ts";
import { bootstrapInterval, median } from "./statistics.ts";
import type { ReportTable } from "./suite.ts";
import { driftOf } from "./turns.ts";

/** A column: which samples its cells are of. */
export interface TableColumn {
  readonly title: string;
  readonly metric: string;
  /** @default "" */
  readonly at?: number | string;
  /** After the decimal point; where there is none, as many as the number needs. */
  readonly digits?: number;
}

/** Of `summaryTable`. */
export interface SummaryOptions {
  readonly title: string;
  readonly seed: number;
  /** @default a column for each metric under each condition */
  readonly columns?: readonly TableColumn[];
  /** Above how much change of the first variant a column is marked. @default 0.1 */
  readonly driftLimit?: number;
  readonly notes?: readonly string[];
}

const MARK = "†";

/** Medians with their 95 % intervals; columns in which the machine's speed changed are marked. */
export function summaryTable(samples: readonly Sample[], options: SummaryOptions): ReportTable {
  const { title, seed, columns = columnsOf(samples), driftLimit = 0.1, notes = [] } = options;
  const drifts = driftOf(samples);
  const changeOf = ({ metric, at = "" }: TableColumn): number =>
    Math.abs(drifts.find((drift) => drift.metric === metric && drift.at === at)?.change ?? 0);
  const drifted = columns.map((column) => changeOf(column) > driftLimit);
  const rows = distinct(samples.map(({ variant }) => variant)).map((variant) => [
    variant,
    ...columns.map((column) => cell(valuesOf(samples, { variant, ...column }), seed, column.digits)),
  ]);
  const percent = (100 * driftLimit).toFixed(0);
  const mark = `${MARK} ${rows[0]?.[0] ?? ""} changed by more than ${percent} % from its first measurement to its last one.`;
  return {
    title,
    columns: ["", ...columns.map((column, index) => column.title + (drifted[index] ? ` ${MARK}` : ""))],
    rows,
    notes: drifted.includes(true) ? [...notes, mark] : notes,
  };
}

function columnsOf(samples: readonly Sample[]): readonly TableColumn[] {
  return distinct(samples.map(({ metric }) => metric)).flatMap((metric) =>
    distinct(samples.filter((one) => one.metric === metric).map(({ at }) => at)).map((at) => ({
      title: at === "" ? metric : `${metric}, ${at}`,
      metric,
      at,
    })),
  );
}

function cell(values: readonly number[], seed: number, digits: number | undefined): string {
  if (values.length === 0) return "–";
  const middle = median(values);
  const interval = bootstrapInterval(values, { seed });
  const text = formatNumber(middle, digits);
  if (!interval) return text;
  const [low, high] = [formatNumber(interval.low, digits), formatNumber(interval.high, digits)];
  return low === text && high === text ? text : `${text} (${low} to ${high})`;
}

/** Three figures where nothing else is said; thousands apart. */
export function formatNumber(value: number, digits?: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value);
  const size = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  const shown = digits ?? Math.min(6, Math.max(0, 2 - size));
  return value.toLocaleString("en-US", { minimumFractionDigits: shown, maximumFractionDigits: shown });
}
