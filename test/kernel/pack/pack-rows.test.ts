// Rows of floats that the kernel packs, in the numbers of their file, in float32 and rounded to bytes.

import { decodeFloats, encodeFloats, type StoredFloat } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { loadAddon } from "../../../packages/kernel/src/native-kernel.ts";
import { packFile, packFloat, packInt8 } from "../../../packages/kernel/src/pack/pack-product.ts";
import { nativePacker, wasmPacker } from "../../../packages/kernel/src/pack/packed-file.ts";
import { roundRows } from "../../oracles/plain-rounding.ts";
import { PLAIN_TYPES, plainFileBlocks } from "../../oracles/plain-file-blocks.ts";
import * as fc from "../../support/fast-check.ts";
import { memoryLinear } from "../../support/kernel/memory-store.ts";
import { packedParts } from "../../support/kernel/packed-bytes.ts";
import { fileTensor, randomFileBlocks } from "../../support/kernel/random-weights.ts";
import { randomInteger, randomNormal, seededRandom } from "../../support/random.ts";

const PANEL = 64;
const SPECIAL = [0, -0, 1e-40, -1e-45, 2 ** -126, 65_504, 6e-8, -3e38, Infinity, -Infinity, NaN];

const PACKERS = [
  ["the addon, on one thread", nativePacker(loadAddon(), 1)],
  ["the addon, on three threads", nativePacker(loadAddon(), 3)],
  ["WebAssembly", wasmPacker()],
] as const;

interface Weights {
  readonly type: StoredFloat;
  readonly numOut: number;
  readonly numIn: number;
  readonly hasFactors: boolean;
  readonly hasBias: boolean;
  /** Share of weights that are no ordinary numbers. */
  readonly specialShare: number;
  readonly seed: number;
}

const anyWeights: fc.Arbitrary<Weights> = fc.record({
  type: fc.constantFrom("F32", "F16", "BF16"),
  numOut: fc.integer({ min: 1, max: 200 }),
  numIn: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(31, 32, 127, 128, 129, 255, 256, 257)),
  hasFactors: fc.boolean(),
  hasBias: fc.boolean(),
  specialShare: fc.constantFrom(0, 0.001, 0.1),
  seed: fc.integer({ min: 1, max: 2 ** 31 }),
});

/** Rows of all sizes, of which every third has weights halfway between two bytes. */
function randomRows({ type, numOut, numIn, specialShare, seed }: Weights): Float32Array {
  const random = seededRandom(seed);
  const scales = Array.from({ length: numOut }, () => 2 ** (randomInteger(random, type === "F16" ? 12 : 280) - 10));
  const values = Float32Array.from({ length: numOut * numIn }, (_, i) => {
    const row = Math.floor(i / numIn);
    const scale = (scales[row] as number) * (type === "F16" ? 1 : 2 ** -130);
    if (random() < specialShare) return SPECIAL[randomInteger(random, SPECIAL.length)] as number;
    if (row % 3 > 0) return randomNormal(random) * scale;
    return i % numIn === 0 ? 127 * scale : (randomInteger(random, 254) - 126.5) * scale;
  });
  return decodeFloats(encodeFloats(values, type), type);
}

/** Finds the place of each input in a panel, and everything between. */
function panelsOf<Numbers extends Float32Array | Uint8Array>(
  numbers: ArrayLike<number>,
  { numIn }: Pick<Weights, "numIn">,
  into: Numbers,
  placeOf: (input: number, column: number) => number,
): Numbers {
  const panelLength = into.length / Math.ceil(numbers.length / numIn / PANEL);
  for (let i = 0; i < numbers.length; i++) {
    const row = Math.floor(i / numIn);
    into[Math.floor(row / PANEL) * panelLength + placeOf(i % numIn, row % PANEL)] = numbers[i] as number;
  }
  return into;
}

/** Returns the place of a byte in a panel. */
function place(i: number, column: number): number {
  return (i >> 2) * 4 * PANEL + column * 4 + (i & 3);
}

/** Finds the first number that is another one, or an end; -1 if there is none. Far faster than `toStrictEqual`. */
function firstDifference(numbers: Float32Array | Uint8Array, expected: Float32Array | Uint8Array): number {
  const length = Math.max(numbers.length, expected.length);
  for (let i = 0; i < length; i++) if (!Object.is(numbers[i], expected[i])) return i;
  return -1;
}

function factorsOf({ numOut, numIn, hasFactors, hasBias, seed }: Weights) {
  const random = seededRandom(seed + 1);
  const positive = (length: number): Float32Array => Float32Array.from({ length }, () => 0.1 + 3 * random());
  return {
    inputs: hasFactors ? positive(numIn) : undefined,
    outputs: hasFactors ? positive(numOut) : undefined,
    bias: hasBias ? positive(numOut) : undefined,
  };
}

/** Appends zeros up to whole panels. */
function padded(values: ArrayLike<number>): Float32Array {
  const whole = new Float32Array(Math.ceil(values.length / PANEL) * PANEL);
  whole.set(values);
  return whole;
}

describe.each(PACKERS)("rows that are packed by %s", (_, packer) => {
  test("are rounded as numbers one by one are", async () => {
    await fc.assert(
      fc.asyncProperty(anyWeights, async (weights) => {
        const { type, numIn, numOut } = weights;
        const values = randomRows(weights);
        const { inputs, outputs, bias } = factorsOf(weights);
        const packed = packInt8(memoryLinear(values, numIn, bias, type), {
          inputs: inputs && (async () => inputs),
          outputs: outputs && (async () => outputs),
        });
        const divided = inputs ? values.map((value, i) => value / (inputs[i % numIn] as number)) : values;
        const { bytes, scales } = roundRows(divided, numIn);
        const room = new Uint8Array(packed.weightBytes).fill(128);
        const expected = panelsOf(bytes, weights, room, place);
        // Inputs that fill up four are 0 times a scale that is no number.
        const panelLength = expected.length / Math.ceil(numOut / PANEL);
        for (const [row, scale] of scales.entries()) {
          if (!Number.isNaN(scale)) continue;
          const panel = Math.floor(row / PANEL) * panelLength;
          for (let i = numIn; i % 4 > 0; i++) expected[panel + place(i, row % PANEL)] = 0;
        }
        const { weights: bytesPacked, ...rest } = await packedParts(packed, packer);
        expect(firstDifference(bytesPacked, expected)).toBe(-1);
        expect(rest).toStrictEqual({
          scales: padded(Float32Array.from(scales, (scale, row) => scale * (outputs?.[row] ?? 1))),
          bias: bias ? padded(bias.map((value, row) => value * (outputs?.[row] ?? 1))) : new Float32Array(),
        });
      }),
      { numRuns: 60 },
    );
  });

  test.each(Object.entries(PLAIN_TYPES))("are rounded from %s as decoded blocks are", async (name, type) => {
    const [numOut, numIn] = [70, 768];
    const inputs = new Float32Array(numIn).map((zero, i) => zero + 1 + (i % 7));
    const bytes = randomFileBlocks(seededRandom(numIn), name, { numValues: numOut * numIn, size: 1 });
    const { values, scales, minimums } = plainFileBlocks(type, bytes);
    const floats = Float32Array.from(values, (value, i) => {
      const block = Math.floor(i / type.block);
      return Math.fround((scales[block] as number) * value + (minimums?.[block] ?? 0)) / (inputs[i % numIn] as number);
    });
    const weight = fileTensor(name, bytes, [numOut, numIn]);
    const packed = packInt8({ weight, bias: undefined }, { inputs: async () => inputs });
    const rounded = roundRows(floats, numIn);
    const room = new Uint8Array(packed.weightBytes).fill(128);
    const expected = panelsOf(rounded.bytes, { numIn }, room, place);
    const { weights, scales: packedScales } = await packedParts(packed, packer);
    expect(firstDifference(weights, expected)).toBe(-1);
    expect(packedScales).toStrictEqual(padded(rounded.scales));
  });

  test("are divided by factors in float32", async () => {
    await fc.assert(
      fc.asyncProperty(anyWeights, async (weights) => {
        const { type, numIn } = weights;
        const values = randomRows(weights);
        const { inputs } = factorsOf(weights);
        const packed = packFloat(memoryLinear(values, numIn, undefined, type), inputs && (async () => inputs));
        const divided = inputs ? values.map((value, i) => value / (inputs[i % numIn] as number)) : values;
        const room = new Float32Array(packed.weightBytes / 4);
        const expected = panelsOf(divided, weights, room, (i, column) => i * PANEL + column);
        const { weights: bytes } = await packedParts(packed, packer);
        expect(firstDifference(decodeFloats(bytes, "F32"), expected)).toBe(-1);
      }),
      { numRuns: 30 },
    );
  });

  test("of 16 bits stay as they are", async () => {
    await fc.assert(
      fc.asyncProperty(anyWeights, async (weights) => {
        const type = weights.type === "F32" ? "BF16" : weights.type;
        const values = randomRows({ ...weights, type });
        const packed = packFile(memoryLinear(values, weights.numIn, undefined, type), type);
        const room = new Float32Array(packed.weightBytes / 2);
        const expected = panelsOf(values, weights, room, (i, column) => i * PANEL + column);
        const { weights: bytes } = await packedParts(packed, packer);
        expect(firstDifference(decodeFloats(bytes, type), expected)).toBe(-1);
      }),
      { numRuns: 30 },
    );
  });

  test("are read and packed in pieces", async () => {
    const weights: Weights = {
      type: "F32",
      numOut: 300,
      numIn: 5000,
      hasFactors: false,
      hasBias: false,
      specialShare: 0,
      seed: 5,
    };
    const values = randomRows(weights);
    const packed = packInt8(memoryLinear(values, weights.numIn, undefined));
    const { bytes, scales } = roundRows(values, weights.numIn);
    const room = new Uint8Array(packed.weightBytes).fill(128);
    const expected = panelsOf(bytes, weights, room, (i, column) => (i >> 2) * 4 * PANEL + column * 4 + (i & 3));
    const parts = await packedParts(packed, packer);
    expect(firstDifference(parts.weights, expected)).toBe(-1);
    expect(parts.scales).toStrictEqual(padded(scales));
  });
});

test("weights of other types are packed by the floats that they stand for", async () => {
  const values = randomRows({ type: "F32", numOut: 70, numIn: 33, seed: 9, specialShare: 0 } as Weights);
  const { weight } = memoryLinear(values, 33, undefined);
  const { store } = weight;
  const info: typeof store.info = (name) => ({ ...store.info(name), type: "F64", byteLength: 8 * values.length });
  const wide = { ...weight, store: { ...store, info, readBytes: () => Promise.reject(new Error("other bytes")) } };
  for (const pack of [packInt8, packFloat]) {
    expect(await packedParts(pack({ weight: wide, bias: undefined }))).toStrictEqual(
      await packedParts(pack({ weight, bias: undefined })),
    );
  }
});
