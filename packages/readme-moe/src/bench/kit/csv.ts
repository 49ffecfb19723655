// Raw samples as a table that every other program reads (RFC 4180).

import type { Sample } from "./sample.ts";

const COLUMNS = ["variant", "at", "metric", "round", "turn", "value"] as const;

export function samplesCsv(samples: readonly Sample[]): string {
  const rows = samples.map((sample) => COLUMNS.map((column) => sample[column]));
  return csv([COLUMNS, ...rows]);
}

/** Lines of cells; what would be taken for a border is quoted. */
function csv(rows: readonly (readonly (number | string)[])[]): string {
  return rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function cell(value: number | string): string {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
