// Rounding to blocks beside plain implementations: blocks are decoded value by value, and rounded by their extremes.

import { encodeF16, ggmlTypeOf } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { decodeF16 } from "../../packages/model/src/files/floats.ts";
import { ROUNDED_TYPES, roundToBlocks, type RoundedType } from "../../packages/refactor/src/blocks/round-blocks.ts";
import { PLAIN_TYPES } from "../oracles/plain-file-blocks.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

/** Levels, groups and factors of the types, as llama.cpp's ggml-common.h describes blocks. */
const SHAPES: Readonly<Record<Exclude<RoundedType, "Q8_0">, Shape>> = {
  Q4_0: { least: -8, most: 7, group: 32 },
  Q5_0: { least: -16, most: 15, group: 32 },
  Q4_1: { least: 0, most: 15, group: 32 },
  Q5_1: { least: 0, most: 31, group: 32 },
  Q2_K: { least: 0, most: 3, group: 16, factors: [0, 15] },
  Q3_K: { least: -4, most: 3, group: 16, factors: [-32, 31] },
  Q4_K: { least: 0, most: 15, group: 32, factors: [0, 63] },
  Q5_K: { least: 0, most: 31, group: 32, factors: [0, 63] },
  Q6_K: { least: -32, most: 31, group: 16, factors: [-128, 127] },
};

interface Shape {
  readonly least: number;
  readonly most: number;
  readonly group: number;
  readonly factors?: readonly [least: number, most: number];
}

const SEARCHED = Object.keys(SHAPES) as (keyof typeof SHAPES)[];
const half = (value: number): number => decodeF16(encodeF16(Float32Array.of(value)))[0]!;
const clamp = (value: number, [least, most]: readonly [number, number]): number =>
  Math.max(least, Math.min(most, Math.round(value))) || 0;

const extremeOf = (values: readonly number[]): number =>
  values.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
const squareOf = (values: Float32Array): number => values.reduce((sum, value) => sum + value * value, 0);

/** Rounds a block to the nearest levels of scales that its extremes give. */
function plainRounded(block: Float32Array, { least, most, group, factors }: Shape): Float64Array {
  const groups = Array.from({ length: block.length / group }, (_, g) => {
    const own = block.subarray(g * group, (g + 1) * group);
    const low = Math.min(0, ...own);
    if (least === 0) return { scale: (Math.max(...own) - low) / most, minimum: -low };
    return { scale: extremeOf([...own]) / least, minimum: 0 };
  });
  const edge = factors && (least === 0 ? factors[1] : factors[0]);
  const scale = half(extremeOf(groups.map((one) => one.scale)) / (edge ?? 1));
  const minimum = half(extremeOf(groups.map((one) => one.minimum)) / (factors?.[1] ?? 1));
  return Float64Array.from(block, (value, i) => {
    const own = groups[Math.floor(i / group)]!;
    const step = factors ? scale * clamp(own.scale / scale, factors) : scale;
    const base = factors && least === 0 ? minimum * clamp(own.minimum / minimum, factors) : minimum;
    return step === 0 ? -base : step * clamp((value + base) / step, [least, most]) - base;
  });
}

/** Decodes blocks one value at a time. */
function decoded(bytes: Uint8Array, type: RoundedType): Float64Array {
  const plain = PLAIN_TYPES[type]!;
  const { values, block } = plain;
  return Float64Array.from({ length: (bytes.length / plain.bytes) * values }, (_, at) => {
    const own = Math.floor(at / values);
    const view = new DataView(bytes.buffer, bytes.byteOffset + own * plain.bytes, plain.bytes);
    const group = Math.floor((at % values) / block);
    return plain.scale(view, group) * plain.integer(view, at % values) + (plain.minimum?.(view, group) ?? 0);
  });
}

/** Weighted error of a block, with weights as the rounding has them. */
function errorOf(block: Float32Array, values: ArrayLike<number>, importance?: Float32Array): number {
  const mean = block.reduce((sum, value) => sum + value * value, 0) / block.length;
  return block.reduce(
    (sum, value, i) => sum + (importance?.[i] ?? 1) * Math.sqrt(mean + value * value) * (value - values[i]!) ** 2,
    0,
  );
}

function valuesOf(type: RoundedType): number {
  return ggmlTypeOf(type)!.blockValues;
}

/** Rows of many kinds: normal, of one sign, with an outlier, few levels, constant, zeros, tiny, large. */
function randomBlock(random: () => number, length: number, kind: number): Float32Array {
  const size = [1, 0.02, 1, 1, 1, 0, 2 ** -18, 3000][kind]!;
  return Float32Array.from({ length }, (_, i) => {
    if (kind === 2 && i === 5) return 40;
    if (kind === 3) return Math.floor(4 * random());
    if (kind === 4) return -0.7;
    const value = size * randomNormal(random);
    return kind === 1 ? Math.abs(value) : value;
  });
}
const NUM_KINDS = 8;

describe.each(SEARCHED)("%s", (type) => {
  const length = valuesOf(type);

  test("errs at most as much as the nearest levels of a block's own extremes, with and without importance", () => {
    const random = seededRandom(3);
    for (let trial = 0; trial < 8 * NUM_KINDS; trial++) {
      const block = randomBlock(random, length, trial % NUM_KINDS);
      const importance = trial & 8 ? Float32Array.from(block, () => random() ** 4) : undefined;
      const values = decoded(roundToBlocks(block, type, importance), type);
      const plain = errorOf(block, plainRounded(block, SHAPES[type]), importance);
      expect(errorOf(block, values, importance), `kind ${trial % NUM_KINDS}`).toBeLessThanOrEqual(plain * (1 + 1e-9));
    }
  });

  test("is clearly better than nearest levels on normal weights, and gives important columns less error", () => {
    const random = seededRandom(5);
    const rows = Array.from({ length: 40 }, () => randomBlock(random, length, 0));
    const sum = (of: (block: Float32Array) => number): number => rows.reduce((all, block) => all + of(block), 0);
    const plain = sum((block) => errorOf(block, plainRounded(block, SHAPES[type])));
    expect(sum((block) => errorOf(block, decoded(roundToBlocks(block, type), type)))).toBeLessThan(0.95 * plain);
    const importance = new Float32Array(length).map((_, i) => (i % 4 === 0 ? 100 : 1));
    const ofImportant = (own?: Float32Array): number =>
      sum((block) => {
        const values = decoded(roundToBlocks(block, type, own), type);
        return block.reduce((all, value, i) => all + (i % 4 === 0 ? (value - values[i]!) ** 2 : 0), 0);
      });
    expect(ofImportant(importance)).toBeLessThan(0.95 * ofImportant());
  });

  test("gives values that are in blocks already back nearly as they are", () => {
    const random = seededRandom(7);
    const weights = Float32Array.from({ length: 40 * length }, () => randomNormal(random));
    const first = ggmlTypeOf(type)!.dequantize!(roundToBlocks(weights, type));
    const second = ggmlTypeOf(type)!.dequantize!(roundToBlocks(first, type));
    const change = squareOf(first.map((value, i) => value - second[i]!));
    const rounding = squareOf(first.map((value, i) => value - weights[i]!));
    // Another pair of scale and minimum may give the same levels, and is rounded to other factors.
    expect(change).toBeLessThan(rounding / 50);
  });
});

test.each(["Q4_0", "Q5_0"] as const)("%s comes close to the best of all scales", (type) => {
  const random = seededRandom(11);
  const { least, most } = SHAPES[type];
  for (let trial = 0; trial < 12; trial++) {
    const block = randomBlock(random, 32, 0);
    const largest = Math.max(...block.map(Math.abs));
    let best = Infinity;
    for (let bits = 1; bits < 0x7c00; bits++) {
      const scale = decodeF16(Uint8Array.of(bits & 255, bits >> 8))[0]!;
      if (scale < (0.6 * largest) / most || scale > (1.4 * largest) / most) continue;
      for (const step of [scale, -scale]) {
        best = Math.min(
          best,
          errorOf(
            block,
            Float64Array.from(block, (v) => step * clamp(v / step, [least, most])),
          ),
        );
      }
    }
    const own = errorOf(block, decoded(roundToBlocks(block, type), type));
    expect(own).toBeGreaterThanOrEqual(best * (1 - 1e-9));
    expect(own).toBeLessThan(1.1 * best);
  }
});

test.each(ROUNDED_TYPES)("%s errs within the bound of its levels", (type) => {
  const random = seededRandom(13);
  const weights = Float32Array.from({ length: 20 * 256 }, () => 2 * random() - 1);
  const values = decoded(roundToBlocks(weights, type), type);
  const rms = Math.sqrt(weights.reduce((sum, value, i) => sum + (value - values[i]!) ** 2, 0) / weights.length);
  const shape = type === "Q8_0" ? { least: -127, most: 127 } : SHAPES[type];
  // A step of even levels, whose errors are evenly spread.
  expect(rms).toBeLessThan((1.1 * 2) / (shape.most - shape.least) / Math.sqrt(12));
});

test.each(ROUNDED_TYPES)(
  "%s refuses weights and importance that are no numbers, too large, or no whole blocks",
  (type) => {
    const length = valuesOf(type);
    const withOne = (value: number): Float32Array =>
      new Float32Array(2 * length).fill(1).fill(value, length + 3, length + 4);
    expect(() => roundToBlocks(withOne(NaN), type)).toThrow(/finite weights.*NaN/);
    expect(() => roundToBlocks(withOne(-Infinity), type)).toThrow(/finite weights/);
    expect(() => roundToBlocks(withOne(3e38), type)).toThrow(RangeError);
    expect(() => roundToBlocks(withOne(1).subarray(1), type)).toThrow(/whole blocks/);
    expect(() => roundToBlocks(withOne(1), type, withOne(-1))).toThrow(/importance.*-1/);
    expect(() => roundToBlocks(withOne(1), type, withOne(NaN))).toThrow(/importance.*NaN/);
    // A refused block leaves nothing behind for the next one.
    const zeros = decoded(roundToBlocks(new Float32Array(length), type), type);
    expect(Math.max(...zeros.map(Math.abs))).toBe(0);
    expect(roundToBlocks(withOne(1), type, new Float32Array(length))).toHaveLength(2 * ggmlTypeOf(type)!.blockBytes);
  },
);
