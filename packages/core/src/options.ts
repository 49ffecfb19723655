// Validation of options. Every message contains the option, the expectation and the value.

import { closest, distance } from "fastest-levenshtein";

/** Longest delay of Node's timers, in ms. */
export const MAX_TIMER_MS: number = 2 ** 31 - 1;

/** Tells whether a value is an object with named values. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Writes a size: `39.7 MB`. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Describes a rejected value in a form that the caller recognises, cut to one line. */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return `\`${value}\``;
  return `\`${briefly(value)}\` (${Array.isArray(value) ? "array" : typeof value})`;
}

function briefly(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") return `${value}`;
  return Array.isArray(value) ? "[…]" : "{…}";
}

/** Finds the name in `known` that `name` is probably a misspelling of; `undefined` if none is close enough. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const nearest = closest(name, known);
  return distance(name.toLowerCase(), nearest.toLowerCase()) <= Math.max(2, name.length / 3) ? nearest : undefined;
}

/** Rejects unknown keys. @throws {TypeError} if `options` has a key that is not in `known`; suggests a similar one */
export function rejectUnknownKeys(where: string, options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const near = nearestName(key, known);
    throw new TypeError(`Unknown option \`${key}\` of ${where}${near ? `, did you mean \`${near}\`?` : ""}`);
  }
}

/**
 * Checks that `value` is an integer in `[min, max]`, and returns it.
 * @throws {TypeError} if it is no integer, {RangeError} if it is out of range
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
 * Checks that `value` is a number in `[min, max]`, and returns it.
 * @throws {TypeError} if it is no number, {RangeError} if it is out of range
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
 * Checks that `value` is one of `allowed`, and returns it.
 * @throws {TypeError} if it is not
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

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/**
 * Parses a duration as Ollama and Go write it, such as `5m`, `1h30m` or `300`, which are seconds.
 * @returns ms, `Infinity` for a negative duration, and `undefined` for anything else
 */
export function parseDurationMs(text: string): number | undefined {
  const [, sign, amount = ""] = /^([+-]?)(.*)$/s.exec(text.trim()) ?? [];
  const isDuration = /^(?:\d+(?:\.\d+)?(?:ms|[smh]))+$/.test(amount);
  if (!isDuration && !/^\d+(?:\.\d+)?$/.test(amount)) return undefined;
  if (sign === "-") return Infinity;
  if (!isDuration) return Number(amount) * 1000;
  const parts = amount.matchAll(/(\d+(?:\.\d+)?)(ms|[smh])/g);
  return Array.from(parts, ([, number, unit = ""]) => Number(number) * (UNITS_MS[unit] ?? 0)).reduce(
    (a, b) => a + b,
    0,
  );
}

/** @throws {TypeError} if `value` is given and is no function */
export function functionOption<Value>(name: string, value: Value): Value {
  if (value === undefined || typeof value === "function") return value;
  throw new TypeError(`Expected \`${name}\` to be a function, got ${describeValue(value)}`);
}

/** @throws {TypeError} if `value` is no text */
export function textOption(name: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new TypeError(`Expected \`${name}\` to be a text, got ${describeValue(value)}`);
}

/** @throws {TypeError} if `value` is neither true nor false */
export function switchOption(name: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new TypeError(`Expected \`${name}\` to be true or false, got ${describeValue(value)}`);
}

/** Checks token ids, and copies them. @throws {TypeError | RangeError} naming the first that is none */
export function tokenIdsOption(name: string, ids: ArrayLike<unknown>, vocabSize: number): Int32Array<ArrayBuffer> {
  return Int32Array.from({ length: ids.length }, (_, index) =>
    integerOption(`${name}[${index}]`, ids[index], 0, vocabSize - 1),
  );
}

/** Checks of options by name. Each gets the value, `undefined` where it is absent, and returns what holds. */
export type OptionChecks<Options> = {
  readonly [Name in keyof Options]-?: (value: Options[Name], name: string) => unknown;
};

/** Options as their checks return them. */
export type CheckedOptions<Checks> = {
  readonly [Name in keyof Checks]: Checks[Name] extends (...given: never[]) => infer Value ? Value : never;
};

type RangeCheck = (fallback: number, min: number, max?: number) => (value: number | undefined, name: string) => number;

/** Creates the check of a number that has a default. */
export const numberCheck: RangeCheck = (fallback, min, max) => (value, name) =>
  numberOption(name, value ?? fallback, min, max);

/** Creates the check of an integer that has a default. */
export const integerCheck: RangeCheck = (fallback, min, max) => (value, name) =>
  integerOption(name, value ?? fallback, min, max);

/** Checks a switch, which is off by default. @throws {TypeError} */
export function switchCheck(value: boolean | undefined, name: string): boolean {
  return value === undefined ? false : switchOption(name, value);
}

/**
 * Checks each option.
 *
 * @param where - name of the options in messages; other keys are refused then. @default they are left out
 * @param prefix - text before the names of options in messages
 * @throws {TypeError | RangeError} naming the option, the expectation and the value
 */
export function checkedOptions<Checks extends Readonly<Record<string, (value: never, name: string) => unknown>>>(
  options: object,
  checks: Checks,
  where?: string,
  prefix = "",
): CheckedOptions<Checks> {
  if (where !== undefined) rejectUnknownKeys(where, options, Object.keys(checks));
  const values: Readonly<Record<string, unknown>> = { ...options };
  const checked = Object.entries(checks).map(([name, check]) => [name, check(values[name] as never, prefix + name)]);
  return Object.fromEntries(checked) as CheckedOptions<Checks>;
}
