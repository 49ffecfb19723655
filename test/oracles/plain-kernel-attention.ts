// Attention of one position of a sequence, head by head.

import type { KvPrecision } from "@readme-moe/kernel";
import {
  add,
  capped,
  divide,
  exponential,
  laneSum,
  multiply,
  roundToEven,
  roundToHalf,
  subtract,
} from "./plain-kernel-numbers.ts";

/** A key or a value: its numbers are multiplied by its scale. */
export interface Cached {
  readonly numbers: Float32Array;
  readonly scale: number;
}

/** Rounds a key or a value as it is kept. */
export function cached(head: Float32Array, precision: KvPrecision): Cached {
  if (precision === "fp32") return { numbers: head, scale: 1 };
  if (precision === "fp16") return { numbers: head.map(roundToHalf), scale: 1 };
  const clamped = head.map((x) => Math.min(65_504, Math.max(-65_504, x)));
  const largest = Math.max(...clamped.map(Math.abs));
  const factor = largest > 1e-30 ? divide(127, largest) : 0;
  return { numbers: clamped.map((x) => roundToEven(multiply(x, factor))), scale: divide(largest, 127) };
}

/**
 * Turns pairs `(i, i + size / 2)` of a head's first dimensions.
 * @param angles - of one position: cosines, then sines
 */
export function rotate(head: Float32Array, angles: Float32Array): Float32Array {
  const half = angles.length / 2;
  const turned = Float32Array.from(head);
  for (let i = 0; i < half; i++) {
    const [first, second] = [head[i] as number, head[i + half] as number];
    const [cosine, sine] = [angles[i] as number, angles[i + half] as number];
    turned[i] = subtract(multiply(first, cosine), multiply(second, sine));
    turned[i + half] = add(multiply(second, cosine), multiply(first, sine));
  }
  return turned;
}

export interface Sight {
  /** Position of the query. */
  readonly position: number;
  /** Positions that it sees, its own included. */
  readonly window: number;
  readonly scale: number;
  /** Score that takes weight from those of positions. @default none */
  readonly sink?: number | undefined;
  /** Bound of scores. @default none */
  readonly cap?: number | undefined;
}

/** Positions whose scores are compared with one largest score before they are added to those before them. */
const TILE = 256;
const LANES = 16;

/** Sums of a query over some positions: weighted values and weights, where the position of the largest score has weight 1. */
interface Taken {
  readonly top: number;
  /** Sums of weights, by position modulo 16. */
  readonly sums: readonly number[];
  readonly values: Float32Array;
}

/** What one query head takes from the positions that it sees. */
export function attend(
  query: Float32Array,
  keys: readonly Cached[],
  values: readonly Cached[],
  { position, window, scale, sink, cap }: Sight,
): Float32Array {
  const first = Math.max(0, position - window + 1);
  let taken: Taken | undefined;
  for (let from = first; from <= position; from = (Math.floor(from / TILE) + 1) * TILE) {
    const to = Math.min(position + 1, (Math.floor(from / TILE) + 1) * TILE);
    const next = takeFrom(query, keys.slice(from, to), values.slice(from, to), { from, scale, cap });
    taken = taken ? together(taken, next) : next;
  }
  const { sums, values: sum, top } = taken as Taken;
  const factor = sink === undefined ? divide(1, laneSum(sums)) : beside(sink, top, laneSum(sums));
  return sum.map((value) => multiply(value, factor));
}

/** Computes the factor of values beside a sink: weights of both are relative to the larger score. */
function beside(sink: number, top: number, sum: number): number {
  const less = exponential(subtract(Math.min(top, sink), Math.max(top, sink)));
  const own = top < sink ? less : 1;
  return divide(own, add(multiply(sum, own), sink < top ? less : 1));
}

/** Computes the sums of a query over neighbouring positions of one tile, the first of which is `from`. */
function takeFrom(
  query: Float32Array,
  keys: readonly Cached[],
  values: readonly Cached[],
  { from, scale, cap }: { readonly from: number } & Pick<Sight, "scale" | "cap">,
): Taken {
  const scores = keys.map((key) => capped(multiply(scalar(query, key.numbers), multiply(key.scale, scale)), cap));
  const top = Math.max(...scores);
  const weights = scores.map((score) => exponential(subtract(score, top)));
  const sums = Array.from({ length: LANES }, () => 0);
  for (const [i, weight] of weights.entries()) {
    sums[(from + i) % LANES] = add(sums[(from + i) % LANES] as number, weight);
  }
  const scaled = weights.map((weight, i) => multiply(weight, (values[i] as Cached).scale));
  const taken = query.map((_, d) =>
    scaled.reduce((sum, weight, i) => add(sum, multiply(weight, (values[i] as Cached).numbers[d] as number)), 0),
  );
  return { top, sums, values: taken };
}

/** Both parts are multiplied so that the largest score of both has weight 1. */
function together(before: Taken, after: Taken): Taken {
  const top = Math.max(before.top, after.top);
  const [first, second] = [before, after].map((part) => exponential(subtract(part.top, top))) as [number, number];
  const joined = (a: number, b: number): number => add(multiply(a, first), multiply(b, second));
  return {
    top,
    sums: before.sums.map((sum, lane) => joined(sum, after.sums[lane] as number)),
    values: before.values.map((value, d) => joined(value, after.values[d] as number)),
  };
}

function scalar(query: Float32Array, key: Float32Array): number {
  let sum = 0;
  for (let d = 0; d < query.length; d++) sum = add(sum, multiply(query[d] as number, key[d] as number));
  return sum;
}
