import { nameOf } from "./contender.ts";
import { type Column, compare, medianOf, type Result } from "./results.ts";

/** Results as lines of text: a row for each contender, and then for each of ours its relation to the best peer. */
export function formatTable(results: readonly Result[], columns: readonly Column[]): string {
  const rows = results.map((result) => [
    nameOf(result.spec),
    ...columns.map((column) => format(medianOf(result, column), column.digits)),
  ]);
  const relations = compare(results, columns).map(({ name, values }) => [
    `${name} : best peer`,
    ...values.map((value, index) => relation(value, columns[index] as Column)),
  ]);
  const failures = results.flatMap(({ spec, failure }) =>
    failure === undefined ? [] : [`${nameOf(spec)}: ${failure}`],
  );
  const table = align([["", ...columns.map((column) => column.title)], ...rows, ...relations]);
  return [...table, ...failures].join("\n");
}

function relation(value: number | undefined, column: Column): string {
  if (value === undefined) return "–";
  if (column.compare === "ratio") return `× ${value.toFixed(2)}`;
  return (value < 0 ? "" : "+") + value.toFixed(column.digits);
}

function format(value: number | undefined, digits: number): string {
  if (value === undefined) return "–";
  return value.toFixed(digits === 0 && value < 10 ? 1 : digits);
}

/** Columns as wide as their widest cell; numbers to the right. */
function align(rows: readonly (readonly string[])[]): readonly string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  "),
  );
}
