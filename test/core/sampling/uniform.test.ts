import { describe, expect, it } from "vitest";
import { uniformAt } from "@readme-moe/core";
import { philox4x32 } from "../../../packages/core/src/random.ts";

const N = 100_000;

/** For 100 equal bins; 99 degrees of freedom have a mean of 99 and a standard deviation of 14. */
function chiSquare(draw: (index: number) => number): number {
  const bins = new Float64Array(100);
  for (let index = 0; index < N; index++) bins[Math.floor(draw(index) * 100)]!++;
  return bins.reduce((sum, count) => sum + (count - N / 100) ** 2 / (N / 100), 0);
}

/** For N independent pairs, about normal with a standard deviation of 1 / sqrt(N) = 0.0032. */
function correlation(one: (index: number) => number, other: (index: number) => number): number {
  let sum = 0;
  for (let index = 0; index < N; index++) sum += (one(index) - 0.5) * (other(index) - 0.5);
  return (sum / N) * 12;
}

describe("philox4x32", () => {
  // Known answers from the authors' Random123 library (kat_vectors, philox4x32 10).
  it.each([
    [[0, 0, 0, 0], [0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], "408f276d 41c83b0e a20bc7c6 6d5451fd"],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], "d16cfe09 94fdcceb 5001e420 24126ea1"],
  ] as const)("gives the authors' known answer for %j", (counter, [key0, key1], expected) => {
    const words = philox4x32(counter, key0, key1);
    expect(words.map((word) => word.toString(16).padStart(8, "0")).join(" ")).toBe(expected);
  });
});

describe("uniformAt", () => {
  const directions = [
    ["positions", (index: number) => uniformAt(7, 0, index)],
    ["seeds", (index: number) => uniformAt(index, 0, 3)],
    ["large seeds", (index: number) => uniformAt(Number.MAX_SAFE_INTEGER - index, 0, 0)],
    ["choices", (index: number) => uniformAt(7, index, 0)],
  ] as const;

  it.each(directions)("is uniform over %s", (_, draw) => {
    expect(chiSquare(draw)).toBeGreaterThan(99 - 4 * 14);
    expect(chiSquare(draw)).toBeLessThan(99 + 4 * 14);
  });

  it.each(directions)("has uniform low bits over %s", (_, draw) => {
    const lowBits = (index: number): number => (draw(index) * 2 ** 40) % 1;
    expect(chiSquare(lowBits)).toBeLessThan(99 + 4 * 14);
  });

  it.each(directions)("is independent of its neighbour among %s", (_, draw) => {
    expect(Math.abs(correlation(draw, (index) => draw(index + 1)))).toBeLessThan(4 * 0.0032);
  });

  it("distinguishes seeds that differ only in the upper bits, and seed, choice and position from each other", () => {
    const draws = [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
      [2 ** 32, 0, 0],
      [2 ** 52, 0, 0],
      [0, 0, 2 ** 32],
      [0, 0, 0],
    ] as const;
    expect(new Set(draws.map(([seed, choice, position]) => uniformAt(seed, choice, position))).size).toBe(draws.length);
  });

  it("stays below 1 and is a multiple of 2^-53", () => {
    for (let index = 0; index < 1000; index++) {
      const u = uniformAt(index, 1, 2);
      expect(u).toBeLessThan(1);
      expect(Number.isSafeInteger(u * 2 ** 53)).toBe(true);
    }
  });
});
