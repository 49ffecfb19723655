// Validation of what callers pass in. Every message names the option, what was expected and what came.

import { closest, distance } from "fastest-levenshtein";

/** Shows a rejected value the way a caller would recognise it, cut to a line. */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return `\`${value}\``;
  return `\`${briefly(value)}\` (${Array.isArray(value) ? "array" : typeof value})`;
}

function briefly(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return `${value}`;
  return Array.isArray(value) ? "[…]" : "{…}";
}

/** The nearest of `known` when it is near enough to be a slip of the finger, else `undefined`. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const nearest = closest(name, known);
  return distance(name.toLowerCase(), nearest.toLowerCase()) <= Math.max(2, name.length / 3) ? nearest : undefined;
}

/** @throws {TypeError} when `options` has a key that is not in `known`; names the near one. */
export function rejectUnknownKeys(where: string, options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const near = nearestName(key, known);
    throw new TypeError(`Unknown option \`${key}\` of ${where}${near ? `, did you mean \`${near}\`?` : ""}`);
  }
}

/**
 * @returns `value`, an integer in `[min, max]`
 * @throws {TypeError} when it is no integer, {RangeError} when it is out of range
 */
export function integerOption(
  name: string,
  value: unknown,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value !== "number" || !Number.isInteger(value)) {
    throw new TypeError(`Expected \`${name}\` to be an integer, got ${describeValue(value)}`);
  }
  if (value < min || value > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `from ${min} to ${max}`;
    throw new RangeError(`Expected \`${name}\` to be ${range}, got ${describeValue(value)}`);
  }
  return value;
}

/**
 * @returns `value`, a number in `[min, max]`
 * @throws {TypeError} when it is no number, {RangeError} when it is out of range
 */
export function numberOption(name: string, value: unknown, min: number, max: number = Infinity): number {
  if (typeof value !== "number" || Number.isNaN(value)) {
    throw new TypeError(`Expected \`${name}\` to be a number, got ${describeValue(value)}`);
  }
  if (value < min || value > max) {
    const range = max === Infinity ? `at least ${min}` : `from ${min} to ${max}`;
    throw new RangeError(`Expected \`${name}\` to be ${range}, got ${describeValue(value)}`);
  }
  return value;
}

/**
 * @returns `value`, one of `allowed`
 * @throws {TypeError} otherwise
 */
export function choiceOption<Choice extends string>(name: string, value: unknown, allowed: readonly Choice[]): Choice {
  const found = allowed.find((choice) => choice === value);
  if (found !== undefined) return found;
  const near = typeof value === "string" ? nearestName(value, allowed) : undefined;
  throw new TypeError(
    `Expected \`${name}\` to be one of ${allowed.map((choice) => JSON.stringify(choice)).join(", ")}, ` +
      `got ${describeValue(value)}${near ? `; did you mean ${JSON.stringify(near)}?` : ""}`,
  );
}
