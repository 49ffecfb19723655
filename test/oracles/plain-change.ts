// Low-rank changes of products, one output after the other.

import { add, multiply, roundToHalf } from "./plain-kernel-numbers.ts";

/** The factors of one product's change: `a` `[rank, numIn]`, `b` `[numOut, rank]`. */
export interface PlainLowRank {
  readonly rank: number;
  readonly numIn: number;
  readonly numOut: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly scale: number;
}

/** Number of inputs that are added up by themselves. */
const PART = 256;

/** What a change adds to each output of its product. */
export function changed(low: PlainLowRank, precision: "fp32" | "fp16" | "int8", input: Float32Array): Float32Array {
  const { rank, numIn, numOut, a, b, scale } = low;
  const lowered = Array.from({ length: rank }, (_, k) => {
    const row = a.slice(k * numIn, (k + 1) * numIn);
    const column = Float32Array.from({ length: numOut }, (_ignored, out) => b[out * rank + k] as number);
    const [aScale, bScale] = [scaleOf(row, precision), scaleOf(column, precision)];
    const values = row.map((value) => rounded(value / aScale, precision));
    const starts = Array.from({ length: Math.ceil(numIn / PART) }, (_ignored, part) => part * PART);
    const parts = starts.map((from) =>
      sumOfPart(values.subarray(from, from + PART), input.subarray(from, from + PART)),
    );
    const sum = parts.reduce((total, part) => add(total, part));
    return { value: multiply(sum, Math.fround(scale * aScale * bScale)), bScale };
  });
  return Float32Array.from({ length: numOut }, (_, out) => {
    const sums = [0, 0];
    for (const [k, { value, bScale }] of lowered.entries()) {
      const factor = Math.fround(rounded((b[out * rank + k] as number) / bScale, precision));
      sums[k % 2] = add(sums[k % 2] as number, multiply(value, factor));
    }
    return add(sums[0] as number, sums[1] as number);
  });
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
