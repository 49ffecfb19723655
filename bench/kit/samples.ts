// Samples: numbers of all suites, each of one variant under one condition; and their CSV form (RFC 4180).

/** One number of one measurement. */
export interface Figure {
  /** Name with its unit: `decode, tok/s`. */
  readonly metric: string;
  /** Condition of the measurement; curves are drawn over numbers. @default "" */
  readonly at?: number | string;
  readonly value: number;
}

/** A figure with its variant and its place in the order of measurements. */
export interface Sample extends Figure {
  readonly at: number | string;
  /** Name of the measured variant: an engine in a precision, a policy, a method. */
  readonly variant: string;
  readonly round: number;
  /** Position in the order of all measurements that took turns. */
  readonly turn: number;
}

/** Selects values of one variant, condition and metric, in the order of measurement. */
export function valuesOf(
  samples: readonly Sample[],
  { variant, at = "", metric }: { readonly variant: string; readonly at?: number | string; readonly metric: string },
): readonly number[] {
  return samples
    .filter((one) => one.variant === variant && one.at === at && one.metric === metric)
    .toSorted((a, b) => a.turn - b.turn)
    .map(({ value }) => value);
}

/** Removes duplicates; keeps the order of first appearance. */
export function distinct<Value>(values: Iterable<Value>): readonly Value[] {
  return [...new Set(values)];
}

const COLUMNS = ["variant", "at", "metric", "round", "turn", "value"] as const;

export function samplesCsv(samples: readonly Sample[]): string {
  const rows = samples.map((sample) => COLUMNS.map((column) => sample[column]));
  return csv([COLUMNS, ...rows]);
}

/** Formats lines of cells; cells with separators are quoted. */
function csv(rows: readonly (readonly (number | string)[])[]): string {
  return rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function cell(value: number | string): string {
  const text = String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
