// Attention of one position of a sequence, head by head.

import { add, divide, exponential, laneSum, multiply, subtract } from "./plain-kernel-numbers.ts";

/** Keys or values of one key head, by position. */
export type Cached = readonly Float32Array[];

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
}

/** What one query head takes from the positions that it sees. */
export function attend(
  query: Float32Array,
  keys: Cached,
  values: Cached,
  { position, window, scale }: Sight,
): Float32Array {
  const first = Math.max(0, position - window + 1);
  const scores = keys
    .slice(0, position + 1)
    .map((key, at) => (at < first ? -Infinity : multiply(scalar(query, key), scale)));
  const top = Math.max(...scores);
  const weights = scores.map((score) => (score === -Infinity ? 0 : exponential(subtract(score, top))));
  const factor = divide(1, laneSum(weights));
  return query.map((_, d) => {
    let sum = 0;
    for (let at = first; at <= position; at++) {
      sum = add(sum, multiply(weights[at] as number, (values[at] as Float32Array)[d] as number));
    }
    return multiply(sum, factor);
  });
}

function scalar(query: Float32Array, key: Float32Array): number {
  let sum = 0;
  for (let d = 0; d < query.length; d++) sum = add(sum, multiply(query[d] as number, key[d] as number));
  return sum;
}
