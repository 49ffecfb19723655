// How large the last values were, as a number of few bits. Integers only: encoder and decoder have to agree everywhere.

/** A running mean of magnitudes, in 256ths. */
export const START_CONTEXT_STATE = 256;

const MAX_MAGNITUDE = 64;
const WINDOW_BITS = 4;
// Half octaves, from a mean of 1/32 up.
const LOWEST_BIT = 3;

export const NUM_CONTEXTS = 26;

export function contextAfter(state: number, value: number): number {
  const magnitude = value < 0 ? -value : value;
  const target = (magnitude > MAX_MAGNITUDE ? MAX_MAGNITUDE : magnitude) << 8;
  return state + ((target - state) >> WINDOW_BITS);
}

/** @returns below `NUM_CONTEXTS` */
export function contextOf(state: number): number {
  if (state < 1 << LOWEST_BIT) return 0;
  const top = 31 - Math.clz32(state);
  return 1 + 2 * (top - LOWEST_BIT) + ((state >> (top - 1)) & 1);
}
