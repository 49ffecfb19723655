// Weights that are rounded to blocks.

import { eightBitBlocks, type BlockSource, type TensorStore } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { middleOf, type BlockWeights } from "../../packages/model/src/tensor-store.ts";
import { fitFourBits } from "../../packages/model/src/quantize.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const NUM_IN = 512;

function valuesOf({ bits, blockSize, quants, scales, offsets }: BlockWeights): Float32Array {
  return Float32Array.from(quants, (quant, i) => {
    const block = Math.floor(i / blockSize);
    return (scales[block] as number) * (quant - middleOf(bits)) + (offsets[block] ?? 0);
  });
}

function normal(seed: number, length: number): Float32Array {
  const random = seededRandom(seed);
  return Float32Array.from({ length }, () => randomNormal(random));
}

function weightedError(weights: Float32Array, values: Float32Array, importance: Float32Array): number {
  return weights.reduce((sum, w, i) => sum + (importance[i % 64] as number) * (w - (values[i] as number)) ** 2, 0);
}

function plainRounding(weights: Float32Array): Float32Array {
  const values = new Float32Array(weights.length);
  for (let start = 0; start < weights.length; start += 32) {
    const block = weights.subarray(start, start + 32);
    const least = Math.min(...block);
    const scale = (Math.max(...block) - least) / 15;
    block.forEach((weight, i) => (values[start + i] = least + scale * Math.round((weight - least) / scale)));
  }
  return values;
}

test("blocks of 8 bits keep weights within half a step, and a block of zeros stays zero", async () => {
  const weights = normal(6, 13 * NUM_IN);
  weights.fill(0, 0, NUM_IN);
  const store = { path: "memory", names: ["w"], readFloats: async () => weights.slice() } as unknown as TensorStore;
  const blocks = await (eightBitBlocks({ store, name: "w", shape: [13, NUM_IN] }) as BlockSource).read();
  valuesOf(blocks).forEach((value, i) => {
    const scale = blocks.scales[Math.floor(i / blocks.blockSize)] as number;
    expect(Math.abs(value - (weights[i] as number))).toBeLessThanOrEqual(0.5001 * scale);
  });
});

describe("blocks fitted to 4 bits", () => {
  const even = new Float32Array(64).fill(1);

  test("recover the levels of weights that lie on levels", () => {
    const random = seededRandom(8);
    // Each block has the lowest and the highest level, as blocks have that were rounded to between the two.
    const level = (i: number): number => (i % 32 < 2 ? 15 * (i % 32) : Math.floor(random() * 16));
    const weights = Float32Array.from({ length: 32 * 64 }, (_, i) => 0.013 * level(i) - 0.087);
    const values = valuesOf(fitFourBits(weights, even, 32));
    weights.forEach((weight, i) => expect(values[i]).toBeCloseTo(weight, 6));
  });

  test("are no worse than rounding between the least and the largest, and better where few channels matter", () => {
    const weights = normal(9, 50 * 64);
    const importance = Float32Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 100 : 1));
    for (const h of [even, importance]) {
      const fitted = weightedError(weights, valuesOf(fitFourBits(weights, h, 32)), h);
      expect(fitted).toBeLessThan((h === even ? 0.95 : 0.6) * weightedError(weights, plainRounding(weights), h));
    }
  });

  test("handle blocks of one value, of zeros, and with a single large value", () => {
    for (const block of [
      new Float32Array(32),
      new Float32Array(32).fill(-3.5),
      Float32Array.from({ length: 32 }, (_, i) => (i === 5 ? 1e6 : 0)),
    ]) {
      const values = valuesOf(fitFourBits(block, even.subarray(0, 32), 32));
      block.forEach((weight, i) =>
        expect(Math.abs((values[i] as number) - weight)).toBeLessThanOrEqual(Math.abs(weight) * 1e-6 + 1e-1),
      );
    }
  });
});
