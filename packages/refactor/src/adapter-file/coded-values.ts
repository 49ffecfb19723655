// Real numbers to small integers and back, and what that costs in bytes and in error.

import { contextAfter, contextOf, NUM_CONTEXTS, START_CONTEXT_STATE } from "./contexts.ts";
import { NUM_SYMBOLS, symbolOf } from "./symbols.ts";

// Rounding down a little more than up makes many zeros: fewer bytes for hardly more error.
const ROUND_UP_FROM = 0.58;
const MAX_VALUE = 32_767;

/** @returns what `decodeValues` times `step` comes near to */
export function quantize(values: Float32Array, step: number): Int16Array {
  const result = new Int16Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = quantized(values[i] as number, step);
  return result;
}

/** The same of one value. */
export function quantized(value: number, step: number): number {
  const scaled = value / step;
  const magnitude = Math.min(MAX_VALUE, Math.floor((scaled < 0 ? -scaled : scaled) + 1 - ROUND_UP_FROM));
  return scaled < 0 ? -magnitude : magnitude;
}

/** What values cost at a step. */
export interface CodeCost {
  /** Without tables. */
  readonly bytes: number;
  readonly squaredError: number;
  /** Symbols by context, `[contexts, symbols]`. */
  readonly counts: Uint32Array;
}

/** @param values - all, or some that stand for all */
export function codeCost(values: Float32Array, step: number): CodeCost {
  const counts = new Uint32Array(NUM_CONTEXTS * NUM_SYMBOLS);
  let squaredError = 0;
  for (let i = 0, state = START_CONTEXT_STATE; i < values.length; i++) {
    const value = values[i] as number;
    const code = quantized(value, step);
    const at = contextOf(state) * NUM_SYMBOLS + symbolOf(code);
    counts[at] = (counts[at] as number) + 1;
    state = contextAfter(state, code);
    squaredError += (value - code * step) ** 2;
  }
  return { bytes: entropyBits(counts) / 8, squaredError, counts };
}

function entropyBits(counts: Uint32Array): number {
  let bits = 0;
  for (let context = 0; context < NUM_CONTEXTS; context++) {
    const own = counts.subarray(context * NUM_SYMBOLS, (context + 1) * NUM_SYMBOLS);
    const sum = own.reduce((total, count) => total + count, 0);
    for (const count of own) if (count > 0) bits -= count * Math.log2(count / sum);
    bits += 16 * (own.at(-1) as number);
  }
  return bits;
}
