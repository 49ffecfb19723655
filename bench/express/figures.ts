// Prints results and compares them with their targets.

import { mean } from "../kit/statistics.ts";

/** Computes the least-squares slope of equidistant values, per step. */
export function slope(values: readonly number[]): number {
  const [middle, average] = [(values.length - 1) / 2, mean(values)];
  const above = values.reduce((sum, value, index) => sum + (index - middle) * (value - average), 0);
  return above / values.reduce((sum, _, index) => sum + (index - middle) ** 2, 0);
}

/** Counts equal texts, such as `200: 31, 503: 4`. */
export function countsOf(values: readonly (string | number)[]): string {
  const counts = new Map<string | number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].map(([value, count]) => `${value}: ${count}`).join(", ");
}

/** Prints a figure beside its target. @returns whether it is met */
export function verdict(what: string, figure: number, unit: string, target: number): boolean {
  const isMet = figure < target;
  console.log(`${isMet ? "met   " : "MISSED"} ${what}: ${figure.toFixed(2)} ${unit} (target: under ${target} ${unit})`);
  return isMet;
}

export function verdictOf(what: string, isMet: boolean): boolean {
  console.log(`${isMet ? "met   " : "MISSED"} ${what}`);
  return isMet;
}
