// The plain implementation's own arithmetic, against whole numbers of any size.

import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import { exponential, multiplyAdd, roundToHalf } from "../oracles/plain-kernel-numbers.ts";

const SEED = 20_261_127;
/** Smallest float32 above 0 is 2^-149; products of two are multiples of 2^-298. */
const UNIT_EXPONENT = -298;

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

function floatOf(bits: number): number {
  word[0] = bits;
  return float[0] as number;
}

/** A float32 as a multiple of 2^-149. */
function multipleOf(x: number): bigint {
  float[0] = x;
  const [bits = 0] = word;
  const exponent = (bits >>> 23) & 255;
  const fraction = BigInt(bits & 0x7fffff);
  const size = exponent === 0 ? fraction : (fraction + (1n << 23n)) << BigInt(exponent - 1);
  return bits >>> 31 ? -size : size;
}

/** Nearest float32 of a multiple of 2^-298, ties to even, as long as it is not too large for any. */
function nearestFloat(multiple: bigint): number {
  const size = multiple < 0n ? -multiple : multiple;
  // Bits below the 24 of a float32, or below 2^-149.
  const drop = BigInt(Math.max(size.toString(2).length - 24, -149 - UNIT_EXPONENT));
  const [kept, rest] = [size >> drop, size & ((1n << drop) - 1n)];
  const half = 1n << (drop - 1n);
  const isUp = rest > half || (rest === half && kept % 2n === 1n);
  const result = Number(kept + (isUp ? 1n : 0n)) * 2 ** (Number(drop) + UNIT_EXPONENT);
  return multiple < 0n ? -result : result;
}

test("a fused multiply-add rounds once", () => {
  const exponent = fc.integer({ min: 1, max: 180 });
  const fraction = fc.oneof(
    fc.nat(0x7fffff),
    fc.nat(15),
    fc.nat(23).map((shift) => 1 << shift),
  );
  const operand = fc
    .tuple(fc.nat(1), exponent, fraction)
    .map(([sign, e, f]) => floatOf(((sign << 31) | (e << 23) | (f & 0x7fffff)) >>> 0));
  // Sums near the product are those in which a second rounding shows.
  const near = fc.record({ a: operand, b: operand, shift: fc.integer({ min: -60, max: 60 }), c: operand });
  fc.assert(
    fc.property(near, fc.boolean(), ({ a, b, c, shift }, isNear) => {
      const third = isNear ? Math.fround(a * b * 2 ** shift) : c;
      if (!Number.isFinite(third)) return;
      const exact = multipleOf(a) * multipleOf(b) + (multipleOf(third) << 149n);
      const expected = nearestFloat(exact);
      if (Math.abs(expected) < 2 ** 127) expect(multiplyAdd(a, b, third) + 0).toBe(expected + 0);
    }),
    { seed: SEED, numRuns: 5000 },
  );
});

test("halves stay what they are, and what is between two goes to the nearer one, from the middle to the even one", () => {
  const halves = Array.from({ length: 0x7c00 }, (_, bits) => {
    const [exponent, fraction] = [bits >> 10, bits & 0x3ff];
    return exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  });
  for (const [bits, half] of halves.entries()) {
    if (roundToHalf(half) !== half) expect(roundToHalf(half)).toBe(half);
    const next = halves[bits + 1];
    if (next === undefined) continue;
    const middle = (half + next) / 2;
    const rounded = [middle - (next - half) / 8, middle, middle + (next - half) / 8].map(roundToHalf);
    const expected = [half, bits % 2 === 0 ? half : next, next];
    if (rounded.some((value, i) => value !== expected[i])) expect(rounded).toEqual(expected);
  }
  expect([1e6, -1e6, 65_520].map(roundToHalf)).toEqual([65_504, -65_504, 65_504]);
});

test("exponentials are within two units in the last place", () => {
  fc.assert(
    fc.property(fc.float({ min: -64, max: 64, noNaN: true }), (x) => {
      const exact = Math.exp(x);
      const unit = 2 ** (Math.floor(Math.log2(exact)) - 23);
      expect(Math.abs(exponential(x) - exact)).toBeLessThanOrEqual(2 * unit);
    }),
    { seed: SEED, numRuns: 3000 },
  );
});
