// Functions that chat templates may call, as transformers gives them.

import { describeValue } from "@readme-moe/core";

// A template is a part of a downloaded model, and must not be able to fill the memory with one call.
const MAX_RANGE_LENGTH = 1e6;

/**
 * Returns the globals of every template, as in transformers. The library's own globals cannot be replaced, and its
 * `strftime_now` writes the names of months in the machine's language.
 */
export function templateGlobals(now: () => Date): Readonly<Record<string, unknown>> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: unknown): never => {
      throw new Error(textOf(message));
    },
    strftime_now: (format: unknown) => strftime(now(), textOf(format)),
  };
}

/** Formats an argument; a list of the interpreter may be far larger as a text than in memory. */
function textOf(argument: unknown): string {
  return typeof argument === "string" || typeof argument === "number" ? `${argument}` : describeValue(argument);
}

/** Does the same as Python's `range`. */
function range(...bounds: number[]): number[] {
  const [start = NaN, stop = NaN, step = 1] = bounds.length === 1 ? [0, ...bounds] : bounds;
  if (!Number.isInteger(start) || !Number.isInteger(stop) || !Number.isInteger(step) || step === 0) {
    throw new Error(`range() of ${bounds.map(textOf).join(", ")}`);
  }
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MAX_RANGE_LENGTH) throw new Error(`range() of ${length} numbers is too long`);
  return Array.from({ length }, (_, index) => start + index * step);
}

// English names on every machine, since templates are written against Python's default.
const MONTHS = "January February March April May June July August September October November December".split(" ");
const WEEKDAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

const twoDigits = (value: number): string => String(value).padStart(2, "0");

/** Directives of C's strftime that chat templates use. */
const DIRECTIVES: Readonly<Record<string, (date: Date) => string>> = {
  Y: (date) => String(date.getFullYear()),
  y: (date) => twoDigits(date.getFullYear() % 100),
  m: (date) => twoDigits(date.getMonth() + 1),
  d: (date) => twoDigits(date.getDate()),
  H: (date) => twoDigits(date.getHours()),
  I: (date) => twoDigits(date.getHours() % 12 || 12),
  M: (date) => twoDigits(date.getMinutes()),
  S: (date) => twoDigits(date.getSeconds()),
  p: (date) => (date.getHours() < 12 ? "AM" : "PM"),
  B: (date) => MONTHS[date.getMonth()] ?? "",
  b: (date) => MONTHS[date.getMonth()]?.slice(0, 3) ?? "",
  A: (date) => WEEKDAYS[date.getDay()] ?? "",
  a: (date) => WEEKDAYS[date.getDay()]?.slice(0, 3) ?? "",
  "%": () => "%",
};

/** Formats `date` in local time; a directive that is not known stays as it is, and `-` removes leading zeros. */
function strftime(date: Date, format: string): string {
  return format.replaceAll(/%(-?)([a-zA-Z%])/g, (text, flag: string, directive: string) => {
    const value = Object.hasOwn(DIRECTIVES, directive) ? DIRECTIVES[directive]?.(date) : undefined;
    return value === undefined ? text : flag === "-" ? value.replace(/^0(?=\d)/, "") : value;
  });
}
