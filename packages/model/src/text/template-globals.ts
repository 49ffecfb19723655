import { strftime } from "./strftime.ts";

// A template is a part of a downloaded model: it must not be able to fill the memory with one word.
const MAX_RANGE_LENGTH = 1e6;

/**
 * What every template sees, as in transformers. The library has globals of its own, but they cannot be
 * replaced, and its `strftime_now` writes the names of months in the machine's language.
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
      throw new Error(String(message));
    },
    strftime_now: (format: unknown) => strftime(now(), String(format)),
  };
}

/** Python's `range`. */
function range(...bounds: number[]): number[] {
  const [start, stop, step = 1] = bounds.length === 1 ? [0, ...bounds] : bounds;
  if (!Number.isInteger(start) || !Number.isInteger(stop) || !Number.isInteger(step) || step === 0) {
    throw new Error(`range() of ${bounds.join(", ")}`);
  }
  const length = Math.max(0, Math.ceil(((stop ?? 0) - (start ?? 0)) / step));
  if (length > MAX_RANGE_LENGTH) throw new Error(`range() of ${length} numbers is too long`);
  return Array.from({ length }, (_, index) => (start ?? 0) + index * step);
}
