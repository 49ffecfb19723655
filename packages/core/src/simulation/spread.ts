// Summaries of lists of numbers.

/** Mean and percentile of a list of numbers. */
export interface Spread {
  readonly mean: number;
  /** 95th percentile: the smallest number that at least 95 % of the numbers do not exceed (nearest rank). */
  readonly p95: number;
}

/** Summarises numbers. @returns zeros if there are none */
export function spreadOf(values: readonly number[]): Spread {
  return { mean: meanOf(values), p95: percentile(values, 0.95) };
}

/** Returns the smallest number that at least this share of the numbers does not exceed; 0 if there are none. */
export function percentile(values: readonly number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(share * values.length) - 1)] ?? 0;
}

/** Returns the mean; 0 if there are no numbers. */
export function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : sumOf(values) / values.length;
}

/** Adds numbers. */
export function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
