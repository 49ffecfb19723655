// A suite's report as a page of Markdown.

import { formatNumber } from "./summary-table.ts";
import type { ReportTable, Suite, SuiteReport, Target } from "./suite.ts";

/** @param pictureFolder - where the pictures lie, from the page; "" beside it */
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

/** What was wanted in all suites of a run, in one table; nothing where nothing was. @param bySuite - by their names */
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
