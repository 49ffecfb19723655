// Shares a number of bytes out among tensors, so that all together err least.

import type { Coding } from "./delta-format.ts";
import { FREQUENCY_BITS, NUM_CONTEXTS, NUM_SYMBOLS, tablesFromCounts, type SymbolTables } from "./integer-codes.ts";

/** One way to store a tensor. */
export interface Choice {
  /** Bytes in the file, with the entry in its description. */
  readonly bytes: number;
  /** Squared; 0 where nothing is lost. */
  readonly error: number;
}

/** One way to store a tensor, with the symbols that it would code. */
export interface CodingChoice extends Choice {
  readonly how: Coding;
  /** Symbols by context; absent where no integers are coded. */
  readonly counts?: Uint32Array | undefined;
}

/** Choices for all tensors. */
export interface Chosen {
  readonly choices: readonly CodingChoice[];
  readonly tables: SymbolTables;
}

// Prices of a byte between 2^-120 and 2^40 errors, to 40 digits of their logarithm.
const [LEAST_PRICE, MOST_PRICE] = [-120, 40];
const HALVINGS = 48;

/**
 * Picks one choice for each tensor: the one that errs least when a byte costs as much error as a price, which is
 * the lowest price whose picks fit. No other picks of the same size err less.
 *
 * @param choices - by tensor, at least one each
 * @param sizeOf - bytes that some picks take; the sum of their bytes by default
 * @returns the picked choices; `undefined` where even the smallest do not fit
 */
export function allocate<Way extends Choice>(
  choices: readonly (readonly Way[])[],
  maxBytes: number,
  sizeOf: (picks: readonly Way[]) => number = (picks) => picks.reduce((sum, { bytes }) => sum + bytes, 0),
): readonly Way[] | undefined {
  const pickAt = (price: number): readonly Way[] =>
    choices.map((ways) => ways.reduce((a, b) => (isCheaper(b, a, price) ? b : a)));
  let fitting = pickAt(Infinity);
  if (sizeOf(fitting) > maxBytes) return undefined;
  const best = pickAt(0);
  if (sizeOf(best) <= maxBytes) return best;
  let [low, high] = [LEAST_PRICE, MOST_PRICE];
  for (let round = 0; round < HALVINGS; round++) {
    const middle = (low + high) / 2;
    const picks = pickAt(2 ** middle);
    if (sizeOf(picks) > maxBytes) low = middle;
    else [high, fitting] = [middle, picks];
  }
  return fitting;
}

function isCheaper(one: Choice, other: Choice, price: number): boolean {
  if (price === Infinity) return one.bytes < other.bytes || (one.bytes === other.bytes && one.error < other.error);
  const gain = other.error - one.error - price * (one.bytes - other.bytes);
  return gain > 0 || (gain === 0 && one.bytes < other.bytes);
}

/** Chooses for all tensors, with the tables of symbols that they share. @returns `undefined` where nothing fits */
export function choose(choices: readonly (readonly CodingChoice[])[], maxBytes: number): Chosen | undefined {
  const sizeOf = (picks: readonly CodingChoice[]): number => {
    const bits = bitsOf(tablesFor(picks));
    return picks.reduce((sum, pick) => sum + bytesWith(bits, pick), 0);
  };
  const picks = allocate(choices, maxBytes, sizeOf);
  return picks && { choices: picks, tables: tablesFor(picks) };
}

function tablesFor(picks: readonly CodingChoice[]): SymbolTables {
  const sums = new Float64Array(NUM_CONTEXTS * NUM_SYMBOLS);
  for (const { counts } of picks) {
    if (counts) for (const [at, count] of counts.entries()) sums[at] = (sums[at] ?? 0) + count;
  }
  return tablesFromCounts(sums);
}

/** Bits of each symbol in each context. */
function bitsOf({ frequencies }: SymbolTables): Float64Array {
  return Float64Array.from(frequencies, (frequency) => FREQUENCY_BITS - Math.log2(frequency));
}

/** Computes a choice's bytes with shared tables, in place of tables of its own. */
function bytesWith(bits: Float64Array, { bytes, counts }: CodingChoice): number {
  if (!counts) return bytes;
  let sum = 0;
  let own = 0;
  for (let from = 0; from < counts.length; from += NUM_SYMBOLS) {
    let total = 0;
    for (let at = from; at < from + NUM_SYMBOLS; at++) total += counts[at] ?? 0;
    for (let at = from; at < from + NUM_SYMBOLS; at++) {
      const count = counts[at] ?? 0;
      if (count === 0) continue;
      own -= count * Math.log2(count / total);
      sum += count * (bits[at] ?? 0);
    }
  }
  return bytes + (sum - own) / 8;
}
