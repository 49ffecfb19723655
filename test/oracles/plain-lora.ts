// What loras add to products, one output after the other.

import { add, multiply, roundToHalf } from "./plain-kernel-numbers.ts";
import { GROUP, roundInput, type RoundedGroup } from "./plain-kernel-product.ts";

/** The factors of one product: `a` `[rank, numIn]`, `b` `[numOut, rank]`. */
export interface PlainLoraFactors {
  readonly rank: number;
  readonly numIn: number;
  readonly numOut: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly scale: number;
}

/** Number of inputs that are added up by themselves. */
const PART = 256;
/** Number of ranks in a vector. */
const VECTOR = 16;

/** Computes the numbers that a lora adds to each output of its product. */
export function addedBy(low: PlainLoraFactors, precision: "fp32" | "fp16" | "int8", input: Float32Array): Float32Array {
  const { rank, numIn, numOut, a, b, scale } = low;
  const groups = precision === "int8" ? roundInput(input) : [];
  const scales: number[] = [];
  const lowered = Float32Array.from({ length: Math.ceil(rank / VECTOR) * VECTOR }, (_, k) => {
    if (k >= rank) return 0;
    const row = a.slice(k * numIn, (k + 1) * numIn);
    const column = Float32Array.from({ length: numOut }, (_ignored, out) => b[out * rank + k] as number);
    const [aScale, bScale] = [scaleOf(row, precision), scaleOf(column, precision)];
    scales[k] = bScale;
    const values = row.map((value) => rounded(value / aScale, precision));
    const starts = Array.from({ length: Math.ceil(numIn / PART) }, (_ignored, part) => part * PART);
    const parts = starts.map((from) => {
      const own = values.subarray(from, from + PART);
      if (precision === "int8") return sumOfGroups(own, groups.slice(from / GROUP, (from + PART) / GROUP));
      return sumOfPart(own, input.subarray(from, from + PART));
    });
    const sum = parts.reduce((total, part) => add(total, part));
    return multiply(sum, Math.fround(scale * aScale * bScale));
  });
  const factorOf = (out: number, k: number): number =>
    k < rank ? Math.fround(rounded((b[out * rank + k] as number) / (scales[k] ?? 1), precision)) : 0;
  const ofOutput = precision === "int8" ? bytesOf(lowered, factorOf) : floatsOf(lowered, factorOf);
  return Float32Array.from({ length: numOut }, (_, out) => ofOutput(out));
}

type FactorOf = (out: number, k: number) => number;

/** Two sums, one of even and one of odd ranks. */
function floatsOf(lowered: Float32Array, factorOf: FactorOf): (out: number) => number {
  return (out) => {
    const sums = [0, 0];
    for (const [k, value] of lowered.entries()) {
      sums[k % 2] = add(sums[k % 2] as number, multiply(value, factorOf(out, k)));
    }
    return add(sums[0] as number, sums[1] as number);
  };
}

/** Integer sums of 16 ranks, whose values are rounded together. */
function bytesOf(lowered: Float32Array, factorOf: FactorOf): (out: number) => number {
  const vectors = Array.from({ length: lowered.length / VECTOR }, (_, vector) => {
    const [group] = roundInput(lowered.subarray(vector * VECTOR, (vector + 1) * VECTOR));
    return { first: vector * VECTOR, ...(group as RoundedGroup) };
  });
  return (out) =>
    vectors.reduce((total, { first, values, scale }) => {
      const dot = values.reduce((sum, value, k) => sum + value * factorOf(out, first + k), 0);
      return add(total, multiply(dot, scale));
    }, 0);
}

/** Integer sums of the groups of rounded inputs, in order. */
function sumOfGroups(values: Float32Array, groups: readonly RoundedGroup[]): number {
  return groups.reduce((total, { values: inputs, scale }, group) => {
    const own = values.subarray(group * GROUP, (group + 1) * GROUP);
    const dot = inputs.reduce((sum, value, i) => sum + value * (own[i] ?? 0), 0);
    return add(total, multiply(dot, scale));
  }, 0);
}

/** Four sums, one of every fourth input; what is left at the end joins the first. */
function sumOfPart(values: Float32Array, input: Float32Array): number {
  const sums = [0, 0, 0, 0];
  const whole = values.length - (values.length % 4);
  for (const [i, value] of values.entries()) {
    const at = i < whole ? i % 4 : 0;
    sums[at] = add(sums[at] as number, multiply(input[i] as number, value));
  }
  const [first = 0, second = 0, third = 0, fourth = 0] = sums;
  return add(add(first, second), add(third, fourth));
}

function scaleOf(values: Float32Array, precision: "fp32" | "fp16" | "int8"): number {
  if (precision === "fp32") return 1;
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return Math.fround(precision === "int8" ? largest / 127 : largest) || 1;
}

function rounded(value: number, precision: "fp32" | "fp16" | "int8"): number {
  if (precision === "fp32") return value;
  return precision === "fp16" ? roundToHalf(Math.fround(value)) : Math.round(value);
}
