// Small integers in the delta file: rounding to them, and their bytes. Signs are folded into the lowest bit (0, -1, 1,
// -2, …) and brotli compresses the numbers' lowest 4 or 8 bits, followed by their next ones. The first byte says which.

import { brotliCompressSync, brotliDecompressSync, constants } from "node:zlib";

// Rounding down a little more often than up makes many zeros: fewer bytes for hardly more error.
const ROUND_UP_FROM = 0.58;
const MAX_VALUE = 32_767;
const NUMBER_BITS = 16;
// From this mean magnitude on, a byte of one number takes less than a byte of two.
const LARGE_MEAN = 2;
// The highest quality takes twenty times as long and saves 1 % of the shipped file. A larger window finds repetitions
// by chance, which take more bits than the numbers themselves.
const QUALITY = 4;
const WINDOW_BITS = constants.BROTLI_MIN_WINDOW_BITS;

/** Rounds each value to a multiple of `step`, and gives the multipliers. */
export function quantize(values: Float32Array, step: number): Int16Array {
  return Int16Array.from(values, (value) => {
    const scaled = value / step;
    const magnitude = Math.min(MAX_VALUE, Math.floor(Math.abs(scaled) + 1 - ROUND_UP_FROM));
    return scaled < 0 ? -magnitude : magnitude;
  });
}

/** Compresses integers for `unpackIntegers`, which also needs their number. */
export function packIntegers(values: Int16Array): Uint8Array {
  let sum = 0;
  // Indices, since iterators take twice as long over millions of numbers.
  for (let index = 0; index < values.length; index++) sum += Math.abs(values[index]!);
  const bits = sum < LARGE_MEAN * values.length ? 4 : 8;
  const { width, numBytes } = sizesOf(values.length, bits);
  const planes = new Uint8Array(numBytes);
  const mask = (1 << bits) - 1;
  const odd = 8 / bits - 1; // the index's lowest bit counts where two numbers share a byte
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    const folded = (value << 1) ^ (value >> 15);
    const shift = bits * (index & odd);
    for (let place = 0, at = index >> odd; place < NUMBER_BITS; place += bits, at += width) {
      planes[at] = planes[at]! | (((folded >> place) & mask) << shift);
    }
  }
  const params = { [constants.BROTLI_PARAM_QUALITY]: QUALITY, [constants.BROTLI_PARAM_LGWIN]: WINDOW_BITS };
  return Buffer.concat([Uint8Array.of(bits), brotliCompressSync(planes, { params })]);
}

/**
 * Decompresses `count` integers.
 *
 * @returns `undefined` where `bytes` are not what `packIntegers` makes of that many integers
 */
export function unpackIntegers(bytes: Uint8Array, count: number): Int16Array | undefined {
  const [bits] = bytes;
  if (bits !== 4 && bits !== 8) return undefined;
  const { width, numBytes } = sizesOf(count, bits);
  let planes: Uint8Array;
  try {
    planes = brotliDecompressSync(bytes.subarray(1), { maxOutputLength: Math.max(1, numBytes) });
  } catch {
    return undefined;
  }
  if (planes.length !== numBytes) return undefined;
  const values = new Int16Array(count);
  const mask = (1 << bits) - 1;
  const odd = 8 / bits - 1;
  for (let index = 0; index < count; index++) {
    const shift = bits * (index & odd);
    let folded = 0;
    for (let place = 0, at = index >> odd; place < NUMBER_BITS; place += bits, at += width) {
      folded |= ((planes[at]! >> shift) & mask) << place;
    }
    values[index] = (folded >> 1) ^ -(folded & 1);
  }
  return values;
}

/** Computes the bytes of the numbers' bits at one place, and at all places. */
function sizesOf(count: number, bits: 4 | 8): { readonly width: number; readonly numBytes: number } {
  const width = Math.ceil((count * bits) / 8);
  return { width, numBytes: (width * NUMBER_BITS) / bits };
}
