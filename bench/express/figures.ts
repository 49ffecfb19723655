// How results are printed, and what they keep to.

import { mean } from "../kit/statistics.ts";

/** The least-squares slope of equally distant values, from one to the next. */
export function slope(values: readonly number[]): number {
  const [middle, average] = [(values.length - 1) / 2, mean(values)];
  const above = values.reduce((sum, value, index) => sum + (index - middle) * (value - average), 0);
  return above / values.reduce((sum, _, index) => sum + (index - middle) ** 2, 0);
}

/** How many there are of each, such as `200: 31, 503: 4`. */
export function countsOf(values: readonly (string | number)[]): string {
  const counts = new Map<string | number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].map(([value, count]) => `${value}: ${count}`).join(", ");
}

/** A figure beside what it has to keep to. @returns whether it does */
export function verdict(what: string, figure: number, unit: string, target: number): boolean {
  const isMet = figure < target;
  console.log(`${isMet ? "met   " : "MISSED"} ${what}: ${figure.toFixed(2)} ${unit} (target: under ${target} ${unit})`);
  return isMet;
}

export function verdictOf(what: string, isMet: boolean): boolean {
  console.log(`${isMet ? "met   " : "MISSED"} ${what}`);
  return isMet;
}
