// Random numbers that are the same for the same seed.

/** Creates a generator of numbers in `[0, 1)` (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). It hashes a
// counter instead of advancing a stream, so a sequence that was preempted and resumed draws the same numbers.
const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** Four 32-bit words, as unsigned integers. */
export type Words4 = readonly [number, number, number, number];

/**
 * Draws the number that decides one token. Equal arguments give equal numbers, different arguments independent ones.
 *
 * @param seed - the request's seed, in [0, 2^53)
 * @param choice - index of the completion in its request, in [0, 2^32)
 * @param position - position of the token in its completion, in [0, 2^53)
 * @returns a multiple of 2^-53 in [0, 1)
 */
export function uniformAt(seed: number, choice: number, position: number): number {
  const counter = [position >>> 0, highWord(position), choice >>> 0, 0] as const;
  const [first, second] = philox4x32(counter, seed >>> 0, highWord(seed));
  return ((first >>> 5) * 2 ** 26 + (second >>> 6)) / 2 ** 53;
}

/** Computes the block of random words with number `counter` under a 64-bit key. */
export function philox4x32(counter: Words4, key0: number, key1: number): Words4 {
  let [c0, c1, c2, c3] = counter;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = (high1 ^ c1 ^ (key0 + Math.imul(round, WEYL_0))) >>> 0;
    c2 = (high0 ^ c3 ^ (key1 + Math.imul(round, WEYL_1))) >>> 0;
    c1 = low1 >>> 0;
    c3 = low0 >>> 0;
  }
  return [c0, c1, c2, c3];
}

function highWord(value: number): number {
  return Math.floor(value / 2 ** 32) >>> 0;
}

/** Computes the upper half of a product of unsigned 32-bit integers, in 16-bit parts: a double holds only 53 bits. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 2 ** 16) + Math.floor(carry / 2 ** 16)) >>> 0;
}
