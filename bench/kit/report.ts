// A suite's report: tables and curves of samples, and the page of Markdown that has them.

import type { Curve, LinePanel } from "@readme-moe/refactor";
import { distinct, type Sample, valuesOf } from "./samples.ts";
import { bootstrapInterval, median } from "./statistics.ts";
import type { ReportTable, Suite, SuiteReport, Target } from "./suite.ts";
import { driftOf } from "./turns.ts";

/** Formats a report. @param pictureFolder - folder of the pictures, relative to the page; "" for the page's own */
export function reportMarkdown({ name, summary }: Suite, report: SuiteReport, pictureFolder = ""): string {
  const { tables, targets = [], pictures = [], notes = [] } = report;
  const parts = [
    `## ${name}`,
    summary,
    ...(targets.length > 0 ? [markdownTable(targetTable(targets))] : []),
    ...tables.map(markdownTable),
    ...pictures.map((one) => `![${one.picture.title}](${pictureFolder}${one.name}.svg)`),
    ...(notes.length > 0 ? [notes.map((note) => `- ${note}`).join("\n")] : []),
  ];
  return `${parts.join("\n\n")}\n`;
}

export function isMet({ value, wanted, limit }: Target): boolean {
  return wanted === "under" ? value < limit : value > limit;
}

/** Formats the targets of all suites as one table; empty without targets. @param bySuite - targets by suite */
export function wantedMarkdown(bySuite: ReadonlyMap<string, readonly Target[]>): readonly string[] {
  const all = [...bySuite.values()].flat();
  if (all.length === 0) return [];
  const numMet = all.filter(isMet).length;
  const title = `Wanted: ${numMet} of ${all.length} met`;
  const rows = Array.from(bySuite, ([suite, targets]) => targets.map((target) => [suite, ...targetCells(target)]));
  return [markdownTable({ title, columns: ["suite", "", "is", "wanted", ""], rows: rows.flat() })];
}

function targetTable(targets: readonly Target[]): ReportTable {
  return { title: "Wanted", columns: ["", "is", "wanted", ""], rows: targets.map(targetCells) };
}

function targetCells(target: Target): readonly string[] {
  const { what, value, unit, wanted, limit, aim } = target;
  const aimed = aim === undefined ? "" : ` (aim: ${aim})`;
  return [
    what,
    `${formatNumber(value)} ${unit}`.trim(),
    `${wanted} ${limit} ${unit}`.trim() + aimed,
    Number.isNaN(value) ? "not measured" : isMet(target) ? "met" : "**missed**",
  ];
}

export function markdownTable({ title, columns, rows, notes = [] }: ReportTable): string {
  const lines = [columns, ...rows].map((row) => row.map(escaped));
  const widths = columns.map((_, column) => Math.max(3, ...lines.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${widths.map((width, column) => pad(cells[column] ?? "", width, column)).join(" | ")} |`;
  const rule = `| ${widths.map((width, column) => (column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`)).join(" | ")} |`;
  const [head = [], ...body] = lines;
  const table = [line(head), rule, ...body.map(line)].join("\n");
  return [`**${title}**`, table, ...(notes.length > 0 ? [notes.join("  \n")] : [])].join("\n\n");
}

function pad(text: string, width: number, column: number): string {
  return column === 0 ? text.padEnd(width) : text.padStart(width);
}

function escaped(text: string): string {
  return text.replaceAll("|", "\\|");
}

/** A column of samples of one metric under one condition. */
export interface TableColumn {
  readonly title: string;
  readonly metric: string;
  /** @default "" */
  readonly at?: number | string;
  /** Decimal places. @default three significant figures */
  readonly digits?: number;
}

/** Options of `summaryTable`. */
export interface SummaryOptions {
  readonly title: string;
  readonly seed: number;
  /** @default a column for each metric under each condition */
  readonly columns?: readonly TableColumn[];
  /** Change of the first variant above which a column is marked. @default 0.1 */
  readonly driftLimit?: number;
  readonly notes?: readonly string[];
}

const MARK = "†";

/** Makes a table of medians with 95 % intervals, and marks columns in which the machine's speed changed. */
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

/** Formats a number with three significant figures by default, and separated thousands. */
export function formatNumber(value: number, digits?: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value);
  const size = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(value)));
  const shown = digits ?? Math.min(6, Math.max(0, 2 - size));
  return value.toLocaleString("en-US", { minimumFractionDigits: shown, maximumFractionDigits: shown });
}

/** Colours by Okabe and Ito, and others that are as distinct. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999", "#7a5195"];

/** Draws a metric's medians over a condition that is a number, a curve for each variant. */
export function curvesPanel(samples: readonly Sample[], metric: string, title: string = metric): LinePanel {
  const names = distinct(samples.map(({ variant }) => variant));
  const curves = names.map((variant, index): Curve => {
    const own = samples.filter((one) => one.variant === variant && one.metric === metric);
    const ats = distinct(own.map(({ at }) => at)).filter((at) => typeof at === "number");
    const points = ats
      .toSorted((a, b) => a - b)
      .map((at) => [at, median(valuesOf(own, { variant, at, metric }))] as const);
    return { name: variant, colour: COLOURS[index % COLOURS.length] as string, points };
  });
  return { title, curves: curves.filter(({ points }) => points.length > 0) };
}
