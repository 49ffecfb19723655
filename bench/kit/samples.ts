// What all suites measure: numbers, each of one variant under one condition; and their table for other programs (RFC 4180).

/** One number of one measurement. */
export interface Figure {
  /** What it is, with its unit: `decode, tok/s`. */
  readonly metric: string;
  /** The condition it was measured under: a number is what curves are drawn over. @default "" */
  readonly at?: number | string;
  readonly value: number;
}

/** A figure, and when it was measured. */
export interface Sample extends Figure {
  readonly at: number | string;
  /** What was measured: an engine in a precision, a policy, a method. */
  readonly variant: string;
  readonly round: number;
  /** Its place in the order of all measurements that took turns. */
  readonly turn: number;
}

/** Samples of one variant, condition and metric, in the order that they were measured in. */
export function valuesOf(
  samples: readonly Sample[],
  { variant, at = "", metric }: { readonly variant: string; readonly at?: number | string; readonly metric: string },
): readonly number[] {
  return samples
    .filter((one) => one.variant === variant && one.at === at && one.metric === metric)
    .toSorted((a, b) => a.turn - b.turn)
    .map(({ value }) => value);
}

/** In the order of their first appearance. */
export function distinct<Value>(values: Iterable<Value>): readonly Value[] {
  return [...new Set(values)];
}

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
