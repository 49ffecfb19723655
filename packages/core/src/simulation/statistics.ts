/** Of a list of numbers. */
export interface Spread {
  readonly mean: number;
  /** The smallest number that at least 95 % of them do not exceed (nearest rank). */
  readonly p95: number;
}

/** @returns zeros where there are no numbers */
export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) return { mean: 0, p95: 0 };
  const sorted = values.toSorted((a, b) => a - b);
  return { mean: meanOf(values), p95: sorted[Math.ceil(0.95 * sorted.length) - 1] as number };
}

/** @returns 0 where there are no numbers */
export function meanOf(values: readonly number[]): number {
  return values.length === 0 ? 0 : sumOf(values) / values.length;
}

export function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
