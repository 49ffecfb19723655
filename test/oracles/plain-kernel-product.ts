// Products with weights of every format, one output after the other.

import { add, divide, multiply, multiplyAdd, roundToEven } from "./plain-kernel-numbers.ts";

export const GROUP = 32;
/** Inputs of a float32 product that are added up by themselves before they join the sum. */
const FLOAT_RUN = 128;
/** Below this a group counts as zeros. */
const SMALLEST = Math.fround(1e-30);

interface Sizes {
  readonly numOut: number;
  readonly numIn: number;
  readonly bias?: Float32Array | undefined;
}

/** Weights `[numOut, numIn]`; `value * scale`, plus the block's minimum where there are any. */
export type PlainWeights =
  | (Sizes & { readonly format: "float"; readonly values: Float32Array })
  | (Sizes & { readonly format: "int8"; readonly values: Int8Array; readonly scales: Float32Array })
  | PlainBlocks;

interface PlainBlocks extends Sizes {
  readonly format: "blocks";
  /** 16 or a multiple of 32, which divides `numIn`. */
  readonly blockSize: number;
  readonly values: Int8Array;
  /** By block, row-major. */
  readonly scales: Float32Array;
  readonly minimums?: Float32Array | undefined;
}

/** A piece of the inputs, rounded to `scale * value`. */
export interface RoundedGroup {
  readonly values: readonly number[];
  readonly scale: number;
}

/**
 * Outputs of one row.
 * @param isFused - whether float32 products and their sums are rounded together, as outside WebAssembly
 */
export function product(weights: PlainWeights, input: Float32Array, isFused: boolean): Float32Array {
  const { format, numOut, bias } = weights;
  const groups = format === "float" ? [] : roundInput(input);
  return Float32Array.from({ length: numOut }, (_, out) => {
    const sum = format === "float" ? floatSum(weights, out, { input, isFused }) : integerSum(weights, out, groups);
    return bias ? add(sum, bias[out] as number) : sum;
  });
}

/** Weights of one output as float32: a row of an embedding. */
export function weightsOf(weights: PlainWeights, out: number): Float32Array {
  const { format, values, numIn } = weights;
  return Float32Array.from({ length: numIn }, (_, i) => {
    const index = out * numIn + i;
    const value = values[index] as number;
    if (format === "float") return value;
    if (format === "int8") return multiply(value, weights.scales[out] as number);
    const block = Math.floor(index / weights.blockSize);
    const scaled = multiply(weights.scales[block] as number, value);
    return weights.minimums ? add(scaled, weights.minimums[block] as number) : scaled;
  });
}

function floatSum(
  { values, numIn }: PlainWeights & { format: "float" },
  out: number,
  { input, isFused }: { readonly input: Float32Array; readonly isFused: boolean },
): number {
  let sum = 0;
  for (let from = 0; from < numIn; from += FLOAT_RUN) {
    let part = 0;
    for (let i = from; i < Math.min(from + FLOAT_RUN, numIn); i++) {
      const [x, weight] = [input[i] as number, values[out * numIn + i] as number];
      part = isFused ? multiplyAdd(x, weight, part) : add(multiply(x, weight), part);
    }
    sum = add(sum, part);
  }
  return sum;
}

function integerSum(
  weights: PlainWeights & { format: "int8" | "blocks" },
  out: number,
  groups: readonly RoundedGroup[],
): number {
  const first = out * weights.numIn;
  let sum = 0;
  for (const [group, { values, scale }] of groups.entries()) {
    if (weights.format === "int8") {
      sum = add(sum, multiply(dot(weights.values, first + group * GROUP, values), scale));
      continue;
    }
    const { blockSize, scales, minimums } = weights;
    const size = Math.min(blockSize, GROUP);
    for (let from = 0; from < values.length; from += size) {
      const part = values.slice(from, from + size);
      const index = first + group * GROUP + from;
      const block = Math.floor(index / blockSize);
      sum = add(sum, multiply(multiply(dot(weights.values, index, part), scales[block] as number), scale));
      if (!minimums) continue;
      const total = part.reduce((a, b) => a + b, 0);
      sum = add(sum, multiply(minimums[block] as number, multiply(scale, total)));
    }
  }
  return weights.format === "int8" ? multiply(sum, weights.scales[out] as number) : sum;
}

/** Exact: at most 32 products of 8 bits. */
function dot(values: Int8Array, from: number, inputs: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < inputs.length; i++) sum += (inputs[i] as number) * (values[from + i] as number);
  return sum;
}

/** Rounds inputs in groups, each so that its largest magnitude becomes 127. */
export function roundInput(input: Float32Array): readonly RoundedGroup[] {
  return Array.from({ length: Math.ceil(input.length / GROUP) }, (_, group) => {
    const floats = Array.from(input.subarray(group * GROUP, (group + 1) * GROUP));
    const largest = Math.max(...floats.map(Math.abs));
    const factor = largest > SMALLEST ? divide(127, largest) : 0;
    return { values: floats.map((x) => roundToEven(multiply(x, factor))), scale: divide(largest, 127) };
  });
}
