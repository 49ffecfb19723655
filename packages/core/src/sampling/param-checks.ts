// Checks of sampling parameters that `options.ts` has none for, in its manner: name, expectation, what came.

import { describeValue, integerOption } from "../options.ts";

const MAX_STOPS = 64;
const MAX_STOP_CHARS = 1024;
const MAX_LISTED_TOKENS = 1024;

/** A closed range, or one that is open below where `above` is given. */
interface NumberRange {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
}

/**
 * @returns `value`, a finite number in the range
 * @throws {TypeError} when it is no number or NaN, {RangeError} when it is out of range or infinite
 */
export function numberOption(name: string, value: unknown, range: NumberRange): number {
  if (typeof value !== "number" || Number.isNaN(value)) {
    throw new TypeError(`Expected \`${name}\` to be a number, got ${describeValue(value)}`);
  }
  const { min = -Infinity, above = -Infinity, max = Infinity } = range;
  if (!Number.isFinite(value) || value < min || value <= above || value > max) {
    throw new RangeError(`Expected \`${name}\` to be ${describeRange(range)}, got ${describeValue(value)}`);
  }
  return value;
}

function describeRange({ min, above, max }: NumberRange): string {
  const low = above === undefined ? `at least ${min}` : `above ${above}`;
  if (max === undefined) return `finite and ${low}`;
  return above === undefined ? `from ${min} to ${max}` : `${low} and at most ${max}`;
}

/** @throws {TypeError | RangeError} when `value` is no integer in [0, 2^53 - 1] */
export function seedOption(name: string, value: unknown): number {
  // Larger integers are not told apart from their neighbours.
  if (typeof value === "number" && Number.isInteger(value) && value > Number.MAX_SAFE_INTEGER) {
    throw new RangeError(`Expected \`${name}\` to be at most 2^53 - 1, got ${describeValue(value)}`);
  }
  return integerOption(name, value, 0);
}

/** @throws {TypeError} when `value` is neither true nor false */
export function flagOption(name: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new TypeError(`Expected \`${name}\` to be true or false, got ${describeValue(value)}`);
}

/** @throws {TypeError} when `value` is no object with named values */
export function recordOption(name: string, value: unknown): void {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return;
  throw new TypeError(`Expected \`${name}\` to be an object, got ${describeValue(value)}`);
}

/** @throws {TypeError | RangeError} when `value` is no list of at most 1,024 token ids */
export function idsOption(name: string, value: unknown, vocabSize: number): ReadonlySet<number> {
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a list of token ids, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, MAX_LISTED_TOKENS);
  return new Set(value.map((id: unknown, index) => integerOption(`${name}[${index}]`, id, 0, vocabSize - 1)));
}

/** @throws {TypeError | RangeError} when `value` does not map at most 1,024 token ids to [-100, 100] */
export function biasOption(name: string, value: unknown, vocabSize: number): ReadonlyMap<number, number> {
  recordOption(name, value);
  const entries = value instanceof Map ? [...value] : Object.entries(value as object);
  limitLength(name, entries.length, MAX_LISTED_TOKENS);
  return new Map(
    entries.map(([key, bias]: readonly [unknown, unknown]) => {
      // The keys of an object are strings; only a plain number is one that was meant as a token id.
      const id = typeof key === "string" && /^\d+$/.test(key) ? Number(key) : key;
      integerOption(`token id in ${name}`, id, 0, vocabSize - 1);
      return [id as number, numberOption(`${name}[${String(key)}]`, bias, { min: -100, max: 100 })];
    }),
  );
}

/** @throws {TypeError | RangeError} when `value` is neither a stop string nor a list of at most 64 */
export function stopsOption(name: string, value: unknown): readonly string[] {
  if (typeof value === "string") return [stopOption(name, value)];
  if (!Array.isArray(value)) {
    throw new TypeError(`Expected \`${name}\` to be a string or a list of strings, got ${describeValue(value)}`);
  }
  limitLength(name, value.length, MAX_STOPS);
  return [...new Set(value.map((stop: unknown, index) => stopOption(`${name}[${index}]`, stop)))];
}

function stopOption(name: string, value: unknown): string {
  if (typeof value !== "string")
    throw new TypeError(`Expected \`${name}\` to be a string, got ${describeValue(value)}`);
  if (value.length === 0 || value.length > MAX_STOP_CHARS) {
    const got = value.length === 0 ? "none" : `${value.length}: ${describeValue(value)}`;
    throw new RangeError(`Expected \`${name}\` to have 1 to ${MAX_STOP_CHARS} chars, got ${got}`);
  }
  // Decoded text has whole characters only, so such a stop could never be met.
  if (/\p{Surrogate}/u.test(value)) {
    throw new RangeError(`Expected \`${name}\` to have no lone surrogates, got ${describeValue(value)}`);
  }
  return value;
}

function limitLength(name: string, length: number, max: number): void {
  if (length > max) throw new RangeError(`Expected \`${name}\` to have at most ${max} entries, got ${length}`);
}
