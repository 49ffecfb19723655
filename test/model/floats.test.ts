import { describe, expect, test } from "vitest";
import {
  decodeBf16,
  decodeF16,
  decodeF32,
  decodeF64,
  encodeBf16,
  encodeF16,
} from "../../packages/model/src/files/floats.ts";

const ALL_PATTERNS = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

/** IEEE 754 binary16 by its definition. */
function plainF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The nearest of a sorted list of `[value, bits]`, ties to the even pattern. */
function nearestBits(value: number, patterns: readonly { value: number; bits: number }[]): number {
  let low = 0;
  let high = patterns.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((patterns[middle]?.value ?? 0) <= value) low = middle;
    else high = middle;
  }
  const below = patterns[low] ?? { value: 0, bits: 0 };
  const above = patterns[high] ?? { value: 0, bits: 0 };
  const [down, up] = [value - below.value, above.value - value];
  if (down !== up) return down < up ? below.bits : above.bits;
  return below.bits % 2 === 0 ? below.bits : above.bits;
}

function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** Copies bytes to an offset that no wider typed array can start at. */
function unaligned(bytes: Uint8Array): Uint8Array {
  const shifted = new Uint8Array(bytes.byteLength + 1);
  shifted.set(bytes, 1);
  return shifted.subarray(1);
}

/** Reads values one by one, as their formats define them. */
function plainValues(bytes: Uint8Array, size: number, valueOf: (view: DataView, at: number) => number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.byteLength / size }, (_, index) => valueOf(view, index * size));
}

/** Returns the float32 whose upper half is `high`. */
function fromHigh(high: number): number {
  return new Float32Array(Uint32Array.of(high * 65_536).buffer)[0] ?? 0;
}

function bf16(...values: number[]): number[] {
  return [...new Uint16Array(encodeBf16(Float32Array.from(values)).buffer)];
}

describe("F16", () => {
  test("decodes all 65536 patterns as IEEE 754 defines them", () => {
    const decoded = decodeF16(bytesOf(ALL_PATTERNS));
    const wrong = [...decoded].filter((value, bits) => !Object.is(value, plainF16(bits)));
    expect(wrong).toEqual([]);
  });

  test("survives a round trip with all 65536 patterns, each NaN included", () => {
    expect(new Uint16Array(encodeF16(decodeF16(bytesOf(ALL_PATTERNS))).buffer)).toEqual(ALL_PATTERNS);
  });

  test("rounds to the nearest, ties to even, like a search through all values", () => {
    // 65536 stands in for infinity: rounding happens as if the exponent went on.
    const patterns = Array.from({ length: 0x7c01 }, (_, bits) => ({
      bits,
      value: bits === 0x7c00 ? 65536 : plainF16(bits),
    }));
    const values: number[] = [];
    for (let i = 0; i < 0x7c00; i++) {
      const [value = 0, next = 0] = [patterns[i]?.value, patterns[i + 1]?.value];
      const middle = (value + next) / 2;
      values.push(value, middle, Math.fround(middle * (1 - 2 ** -23)), Math.fround(middle * (1 + 2 ** -23)));
    }
    const floats = Float32Array.from(values);
    const expected = Uint16Array.from(floats, (value) => nearestBits(value, patterns));
    expect(new Uint16Array(encodeF16(floats).buffer)).toEqual(expected);
    const negative = Uint16Array.from(expected, (bits) => bits | 0x8000);
    expect(new Uint16Array(encodeF16(floats.map((value) => -value)).buffer)).toEqual(negative);
  });

  test("makes large values infinite, tiny ones zero, and keeps NaN", () => {
    const values = Float32Array.of(65519.99, 65520, 1e30, Infinity, -Infinity, 2 ** -25, -1e-40, NaN);
    const bits = [...new Uint16Array(encodeF16(values).buffer)];
    expect(bits.slice(0, 7)).toEqual([0x7bff, 0x7c00, 0x7c00, 0x7c00, 0xfc00, 0, 0x8000]);
    expect(plainF16(bits[7] ?? 0)).toBeNaN();
    // A NaN whose upper mantissa bits are zero must not turn into infinity.
    const lowNan = new Float32Array(Int32Array.of(0x7f80_0001).buffer);
    expect(plainF16(new Uint16Array(encodeF16(lowNan).buffer)[0] ?? 0)).toBeNaN();
  });
});

describe("BF16", () => {
  test("decodes every pattern as the upper half of a float32", () => {
    const words = new Uint32Array(decodeBf16(bytesOf(ALL_PATTERNS)).buffer);
    expect(words).toEqual(Uint32Array.from(ALL_PATTERNS, (bits) => bits * 65536));
  });

  test("survives a round trip with all 65536 patterns, each NaN included", () => {
    expect(new Uint16Array(encodeBf16(decodeBf16(bytesOf(ALL_PATTERNS))).buffer)).toEqual(ALL_PATTERNS);
  });

  test("rounds to the nearest, ties to even", () => {
    // 1 + 2^-7 is the next value after 1.
    const ulp = 2 ** -7;
    expect(bf16(1, 1 + ulp / 2, 1 + ulp / 2 + 2 ** -20, 1 + ulp, 1 + 1.5 * ulp, 1 + 1.5 * ulp - 2 ** -20)).toEqual([
      0x3f80, 0x3f80, 0x3f81, 0x3f81, 0x3f82, 0x3f81,
    ]);
    expect(bf16(-1 - ulp / 2, -1 - 1.5 * ulp, -0)).toEqual([0xbf80, 0xbf82, 0x8000]);
    expect(bf16(Infinity, -Infinity, 3.4e38)).toEqual([0x7f80, 0xff80, 0x7f80]);
  });

  test("keeps a NaN a NaN", () => {
    const nans = new Float32Array(Int32Array.of(0x7f80_0001, 0x7fff_ffff, -1).buffer);
    expect([...decodeBf16(encodeBf16(nans))]).toEqual([NaN, NaN, NaN]);
  });
});

describe("decoding", () => {
  test("does not depend on the alignment of the bytes, nor of a Buffer", () => {
    const halves = bytesOf(ALL_PATTERNS.subarray(0, 1000));
    const floats = Float32Array.of(1.5, -0, 3e38);
    const doubles = Float64Array.of(0.1, 1e300, -2);
    expect(decodeF16(unaligned(halves))).toEqual(decodeF16(halves));
    expect(decodeBf16(unaligned(halves))).toEqual(decodeBf16(halves));
    expect(decodeF32(unaligned(bytesOf(floats)))).toEqual(floats);
    expect(decodeF64(unaligned(bytesOf(doubles)))).toEqual(Float32Array.of(0.1, Infinity, -2));
    expect(decodeF32(Buffer.from(unaligned(bytesOf(floats))))).toEqual(floats);
  });

  test.each([
    ["F16", 2, decodeF16, (view: DataView, at: number) => plainF16(view.getUint16(at, true))],
    ["BF16", 2, decodeBf16, (view: DataView, at: number) => fromHigh(view.getUint16(at, true))],
    ["F32", 4, decodeF32, (view: DataView, at: number) => view.getFloat32(at, true)],
    ["F64", 8, decodeF64, (view: DataView, at: number) => Math.fround(view.getFloat64(at, true))],
  ] as const)("reads %s from any offset within more bytes", (_, size, decode, valueOf) => {
    const file = Uint8Array.from({ length: 200 }, (__, at) => (at * 73 + 41) % 256);
    for (let offset = 0; offset <= 16; offset++) {
      for (const count of [0, 1, 7, 20]) {
        const bytes = file.subarray(offset, offset + count * size);
        const buffer = Buffer.from(file.buffer, offset, count * size);
        expect([...decode(bytes)]).toStrictEqual(plainValues(bytes, size, valueOf));
        expect([...decode(buffer)]).toStrictEqual(plainValues(bytes, size, valueOf));
      }
    }
  });

  test.each([
    ["F16", encodeF16],
    ["BF16", encodeBf16],
  ] as const)("encodes a part of an array as %s", (_, encode) => {
    const values = Float32Array.from({ length: 20 }, (__, at) => at / 3 - 2);
    for (let from = 0; from < 5; from++)
      expect(encode(values.subarray(from, from + 7))).toStrictEqual(encode(values.slice(from, from + 7)));
  });

  test("shares memory of aligned F32 bytes", () => {
    const bytes = new Uint8Array(16);
    expect(decodeF32(bytes).buffer).toBe(bytes.buffer);
  });
});
