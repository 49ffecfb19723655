// The ways in which one tensor's difference from the base model can be stored, with what each costs.

import type { Choice } from "./allocate.ts";
import type { Products } from "../linear-algebra/products.ts";
import { codeCost, type CodeCost } from "./coded-values.ts";
import type { Coding } from "./content.ts";
import { lowRank, type LowRank } from "./low-rank.ts";

/** A choice, and the symbols that it would code. */
export interface CodingChoice extends Choice {
  readonly how: Coding;
  /** Of some of its values. */
  readonly counts: Uint32Array | undefined;
  /** How many values each of those stands for. */
  readonly times: number;
}

/** The tensor as it is in the base model. @param error - what that loses */
export function asInBase(error: number): CodingChoice {
  return { bytes: 0, error, how: { coding: "base" }, counts: undefined, times: 0 };
}

/** The tensor as it is. */
export function whole(bytes: number): CodingChoice {
  return { bytes, error: 0, how: { coding: "whole" }, counts: undefined, times: 0 };
}

// From a step of which only outliers are left, by half octaves, to seven bits.
const COARSEST_STEP = 2.8;
const NUM_STEPS = 14;
// Beyond so many numbers, every fourth row speaks for all.
const SAMPLED_FROM = 1 << 16;
const SAMPLED_ROWS = 4;
// Three times the rank that `tune` gives by default: changes of several tunings add up.
const MAX_RANK = 96;
// Below, the product of factors is hardly ever the cheaper one, and finding them takes time.
const WORTHWHILE_SHARE = 0.5;
const SIZE_BYTES = 4;

/**
 * @param difference - `[rows, columns]`, not all zero
 * @param wholeBytes - of the tensor as it is
 */
export async function codingChoices(
  products: Products,
  difference: Float32Array,
  [rows, columns]: readonly [number, number],
  wholeBytes: number,
): Promise<readonly CodingChoice[]> {
  const square = squareOf(difference);
  const { values, times } = sampled(difference, rows, columns);
  const rms = Math.sqrt(square / difference.length);
  const steps = Array.from({ length: NUM_STEPS }, (_, index) => rms * COARSEST_STEP * 2 ** (-index / 2));
  const factors = await lowRank(products, difference, rows, columns, MAX_RANK, WORTHWHILE_SHARE);
  return [
    asInBase(square),
    ...steps.map((step): CodingChoice => {
      const cost = codeCost(values, step);
      return { ...priced(cost, times), how: { coding: "steps", step } };
    }),
    ...(factors ? steps.flatMap((step) => lowRankChoice(factors, square, step) ?? []) : []),
    whole(wholeBytes),
  ];
}

function lowRankChoice(factors: LowRank, square: number, step: number): CodingChoice | undefined {
  const rank = worthwhileRank(factors, step);
  if (rank === 0) return undefined;
  const cost = codeCost(scaledFactors(factors, rank), step);
  const held = factors.sizes.subarray(0, rank).reduce((sum, size) => sum + size * size, 0);
  const missing = Math.max(0, square - held) + cost.squaredError;
  return {
    ...priced({ ...cost, squaredError: missing }, 1),
    bytes: cost.bytes + SIZE_BYTES * rank,
    how: { coding: "low-rank", step, rank },
  };
}

/** How many directions are larger than what rounding does to them. */
function worthwhileRank({ rank, sizes, left, right }: LowRank, step: number): number {
  const longest = Math.max(left.length, right.length) / rank;
  const least = 0.7 * step * Math.sqrt(longest);
  return sizes.findIndex((size) => size < least) === -1 ? rank : sizes.findIndex((size) => size < least);
}

/**
 * The numbers that a product of factors is coded by: every direction's two unit vectors, both times its size. Rounded to
 * the same step, they err as much as single numbers rounded to it would.
 */
export function scaledFactors({ sizes, left, right, rank: all }: LowRank, rank: number): Float32Array {
  const [rows, columns] = [left.length / all, right.length / all];
  const result = new Float32Array(rank * (rows + columns));
  for (let k = 0, at = 0; k < rank; k++) {
    const size = sizes[k] as number;
    for (let i = 0; i < rows; i++) result[at++] = size * (left[k * rows + i] as number);
    for (let i = 0; i < columns; i++) result[at++] = size * (right[k * columns + i] as number);
  }
  return result;
}

/** The same factors as when choices were made. */
export async function factorsOf(
  products: Products,
  difference: Float32Array,
  rows: number,
  columns: number,
): Promise<LowRank> {
  return (await lowRank(products, difference, rows, columns, MAX_RANK, 0)) as LowRank;
}

function priced(cost: CodeCost, times: number): Omit<CodingChoice, "how"> {
  return { bytes: cost.bytes * times, error: cost.squaredError * times, counts: cost.counts, times };
}

function sampled(
  difference: Float32Array,
  rows: number,
  columns: number,
): { readonly values: Float32Array; readonly times: number } {
  if (difference.length <= SAMPLED_FROM) return { values: difference, times: 1 };
  const kept = Math.ceil(rows / SAMPLED_ROWS);
  const values = new Float32Array(kept * columns);
  for (let i = 0; i < kept; i++) {
    const from = i * SAMPLED_ROWS * columns;
    values.set(difference.subarray(from, from + columns), i * columns);
  }
  return { values, times: rows / kept };
}

export function squareOf(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  return sum;
}
