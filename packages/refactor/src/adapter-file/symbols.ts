// The alphabet of coded values, and how often each symbol comes in each context.

import { NUM_CONTEXTS } from "./contexts.ts";

const MAX_PLAIN = 16;
/** Stands for any value that is larger. */
export const ESCAPE: number = 2 * MAX_PLAIN + 1;
export const NUM_SYMBOLS: number = ESCAPE + 1;
export const FREQUENCY_BITS = 14;

const TOTAL = 2 ** FREQUENCY_BITS;

/** 0, 1, -1, 2, -2, …, and `ESCAPE`. */
export function symbolOf(value: number): number {
  if (value > MAX_PLAIN || value < -MAX_PLAIN) return ESCAPE;
  return value > 0 ? 2 * value - 1 : -2 * value;
}

/** @param symbol - not `ESCAPE` */
export function valueOf(symbol: number): number {
  return symbol & 1 ? (symbol + 1) >> 1 : -(symbol >> 1);
}

/** Everything by context. */
export interface SymbolTables {
  /** `[contexts, symbols]`; a context's add up to `2 ** FREQUENCY_BITS`, none is 0. */
  readonly frequencies: Uint16Array;
  /** `[contexts, symbols]`: sums of the frequencies before. */
  readonly starts: Uint16Array;
  /** `[contexts, 2 ** FREQUENCY_BITS]`: whose a slot is. */
  readonly symbols: Uint8Array;
}

/** @param counts - `[contexts, symbols]` */
export function tablesFromCounts(counts: Float64Array): SymbolTables {
  const frequencies = new Uint16Array(NUM_CONTEXTS * NUM_SYMBOLS);
  for (let context = 0; context < NUM_CONTEXTS; context++) {
    const from = context * NUM_SYMBOLS;
    frequencies.set(scaledToTotal(counts.subarray(from, from + NUM_SYMBOLS)), from);
  }
  return tablesOf(frequencies) as SymbolTables;
}

/** @returns `undefined` where `frequencies` are not as `SymbolTables` has them */
export function tablesOf(frequencies: Uint16Array): SymbolTables | undefined {
  if (frequencies.length !== NUM_CONTEXTS * NUM_SYMBOLS) return undefined;
  const starts = new Uint16Array(frequencies.length);
  const symbols = new Uint8Array(NUM_CONTEXTS * TOTAL);
  for (let context = 0; context < NUM_CONTEXTS; context++) {
    let start = 0;
    for (let symbol = 0; symbol < NUM_SYMBOLS; symbol++) {
      const at = context * NUM_SYMBOLS + symbol;
      const frequency = frequencies[at] as number;
      if (frequency === 0 || start + frequency > TOTAL) return undefined;
      starts[at] = start;
      symbols.fill(symbol, context * TOTAL + start, context * TOTAL + start + frequency);
      start += frequency;
    }
    if (start !== TOTAL) return undefined;
  }
  return { frequencies, starts, symbols };
}

/** Every symbol gets one slot; the others are shared out by counts, what rounding leaves to the most frequent. */
function scaledToTotal(counts: Float64Array): Uint16Array {
  const sum = counts.reduce((total, count) => total + count, 0);
  const free = TOTAL - NUM_SYMBOLS;
  const scaled = Uint16Array.from(counts, (count) => 1 + (sum > 0 ? Math.floor((count / sum) * free) : 0));
  const most = counts.indexOf(Math.max(...counts));
  scaled[most] = (scaled[most] as number) + TOTAL - scaled.reduce((total, frequency) => total + frequency, 0);
  return scaled;
}
