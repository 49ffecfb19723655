// The alphabet of small integers: rounding to them, their frequencies by context, and what coding them costs.

/** Context state before the first value: a running mean of magnitudes, in 256ths. */
export const START_CONTEXT_STATE = 256;
export const NUM_CONTEXTS = 26;
export const FREQUENCY_BITS = 14;

const MAX_PLAIN = 16;
/** Symbol of every value beyond ±16; the value follows in two bytes. */
export const ESCAPE: number = 2 * MAX_PLAIN + 1;
export const NUM_SYMBOLS: number = ESCAPE + 1;

// Rounding down a little more often than up makes many zeros: fewer bytes for hardly more error.
const ROUND_UP_FROM = 0.58;
const MAX_VALUE = 32_767;
const MAX_MAGNITUDE = 64;
const WINDOW_BITS = 4;
const LOWEST_BIT = 3;
const TOTAL = 2 ** FREQUENCY_BITS;

/** Updates the context state by a value. Integer arithmetic only: encoder and decoder agree on every machine. */
export function contextAfter(state: number, value: number): number {
  const magnitude = value < 0 ? -value : value;
  const target = (magnitude > MAX_MAGNITUDE ? MAX_MAGNITUDE : magnitude) << 8;
  return state + ((target - state) >> WINDOW_BITS);
}

/** Numbers the contexts, below `NUM_CONTEXTS`: half octaves of the mean magnitude, from 1/32 up. */
export function contextOf(state: number): number {
  if (state < 1 << LOWEST_BIT) return 0;
  const top = 31 - Math.clz32(state);
  return 1 + 2 * (top - LOWEST_BIT) + ((state >> (top - 1)) & 1);
}

/** Numbers the values 0, 1, -1, 2, -2, …, and `ESCAPE` for all larger ones. */
export function symbolOf(value: number): number {
  if (value > MAX_PLAIN || value < -MAX_PLAIN) return ESCAPE;
  return value > 0 ? 2 * value - 1 : -2 * value;
}

/** Inverts `symbolOf` for symbols other than `ESCAPE`. */
export function valueOf(symbol: number): number {
  return symbol & 1 ? (symbol + 1) >> 1 : -(symbol >> 1);
}

/** Rounds a value to a multiple of `step`, and gives the multiplier. */
function quantized(value: number, step: number): number {
  const scaled = value / step;
  const magnitude = Math.min(MAX_VALUE, Math.floor((scaled < 0 ? -scaled : scaled) + 1 - ROUND_UP_FROM));
  return scaled < 0 ? -magnitude : magnitude;
}

/** Rounds each value to a multiple of `step`. */
export function quantize(values: Float32Array, step: number): Int16Array {
  return Int16Array.from(values, (value) => quantized(value, step));
}

/** Costs of coding values with a step. */
export interface CodeCost {
  /** Entropy with frequencies of its own. */
  readonly bytes: number;
  readonly squaredError: number;
  /** Number of symbols by context, `[contexts, symbols]`. */
  readonly counts: Uint32Array;
}

/** Estimates the cost of coding `values`, which may be a sample. */
export function codeCost(values: Float32Array, step: number): CodeCost {
  const counts = new Uint32Array(NUM_CONTEXTS * NUM_SYMBOLS);
  let squaredError = 0;
  let state = START_CONTEXT_STATE;
  // Indices, since iterators take twice as long over millions of numbers.
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    const code = quantized(value, step);
    const at = contextOf(state) * NUM_SYMBOLS + symbolOf(code);
    counts[at] = counts[at]! + 1;
    state = contextAfter(state, code);
    squaredError += (value - code * step) ** 2;
  }
  let bits = 0;
  for (let from = 0; from < counts.length; from += NUM_SYMBOLS) {
    const own = counts.subarray(from, from + NUM_SYMBOLS);
    const sum = sumOf(own);
    for (const count of own) if (count > 0) bits -= count * Math.log2(count / sum);
    bits += 16 * (own.at(-1) ?? 0);
  }
  return { bytes: bits / 8, squaredError, counts };
}

/** Frequencies of symbols in every context, ready for coding. */
export interface SymbolTables {
  /** `[contexts, symbols]`; those of a context add up to `2 ** FREQUENCY_BITS`, none is 0. */
  readonly frequencies: Uint16Array;
  /** `[contexts, symbols]`: sums of the frequencies before. */
  readonly starts: Uint16Array;
  /** `[contexts, 2 ** FREQUENCY_BITS]`: the symbol of each slot. */
  readonly symbols: Uint8Array;
}

/** Gives every symbol one slot and shares out the others by `counts` `[contexts, symbols]`. */
export function tablesFromCounts(counts: Float64Array): SymbolTables {
  const frequencies = new Uint16Array(NUM_CONTEXTS * NUM_SYMBOLS);
  for (let from = 0; from < counts.length; from += NUM_SYMBOLS) {
    const own = counts.subarray(from, from + NUM_SYMBOLS);
    const sum = sumOf(own);
    const free = TOTAL - NUM_SYMBOLS;
    const scaled = Uint16Array.from(own, (count) => 1 + (sum > 0 ? Math.floor((count / sum) * free) : 0));
    // The most frequent symbol gets what rounding leaves.
    const most = own.indexOf(Math.max(...own));
    scaled[most] = (scaled[most] ?? 0) + TOTAL - sumOf(scaled);
    frequencies.set(scaled, from);
  }
  return tablesOf(frequencies) as SymbolTables;
}

/** @returns `undefined` where `frequencies` are not as `SymbolTables` requires */
export function tablesOf(frequencies: Uint16Array): SymbolTables | undefined {
  if (frequencies.length !== NUM_CONTEXTS * NUM_SYMBOLS) return undefined;
  const starts = new Uint16Array(frequencies.length);
  const symbols = new Uint8Array(NUM_CONTEXTS * TOTAL);
  let slot = 0;
  for (const [at, frequency] of frequencies.entries()) {
    const context = Math.floor(at / NUM_SYMBOLS);
    if (at % NUM_SYMBOLS === 0 && slot !== context * TOTAL) return undefined;
    if (frequency === 0 || slot + frequency > (context + 1) * TOTAL) return undefined;
    starts[at] = slot - context * TOTAL;
    symbols.fill(at % NUM_SYMBOLS, slot, slot + frequency);
    slot += frequency;
  }
  return slot === symbols.length ? { frequencies, starts, symbols } : undefined;
}

function sumOf(values: Uint16Array | Uint32Array | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}
