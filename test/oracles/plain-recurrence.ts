// Recurrences as the kernel defines them, for one token of one sequence after another.

import type { RecurrenceDescription } from "@readme-moe/kernel";
import { add, divide, exponential, laneSum, multiply, subtract } from "./plain-kernel-numbers.ts";

/** A recurrence with its numbers in memory. Channels are those of queries, keys and values, in this order. */
export interface PlainRecurrence extends Pick<RecurrenceDescription, "kind" | "isTiled" | "numTaps" | "valueSize"> {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** By position, the oldest first, and channel; then biases if there are any. */
  readonly taps: readonly Float32Array[];
  /** Negative. */
  readonly rates: Float32Array;
  readonly biases: Float32Array;
  readonly skips: Float32Array;
  readonly outputNorm: Float32Array | undefined;
}

/** Products of a token, whose inputs are those of attention. */
export interface PlainProducts {
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly value: Float32Array;
  readonly gate?: Float32Array | undefined;
  readonly strength?: Float32Array | undefined;
  readonly decay?: Float32Array | undefined;
}

/** State of a sequence. */
export interface PlainState {
  /** What was convolved at each position so far. */
  readonly inputs: Float32Array[];
  /** By head of values, key and column. */
  readonly heads: Float32Array[][];
}

export function emptyState({ numHeads, headSize, valueSize }: PlainRecurrence): PlainState {
  const rows = (): Float32Array[] => Array.from({ length: headSize }, () => new Float32Array(valueSize));
  return { inputs: [], heads: Array.from({ length: numHeads }, rows) };
}

const at = (values: ArrayLike<number>, index: number): number => values[index] as number;

/** Runs a token. @returns the inputs of the output's product */
export function recur(
  layer: PlainRecurrence,
  products: PlainProducts,
  { inputs, heads }: PlainState,
  norm: (row: Float32Array, weights: Float32Array | undefined) => Float32Array,
): Float32Array {
  const { query, key, value, gate, strength, decay } = products;
  if (layer.kind === "convolution") {
    inputs.push(key.map((x, i) => multiply(x, at(value, i))));
    return convolved(layer, inputs).map((x, i) => multiply(at(query, i), x));
  }
  inputs.push(Float32Array.from([...query, ...key, ...value]));
  const mixed = convolved(layer, inputs).map(silu);
  const { numHeads, numKvHeads, headSize, valueSize, kind } = layer;
  const keys = numKvHeads * headSize;
  const outputs = heads.flatMap((state, head) => {
    const shared = layer.isTiled ? head % numKvHeads : Math.floor(head / (numHeads / numKvHeads));
    const keyHead = shared * headSize;
    const unit = kind === "delta" ? divide(1, Math.fround(Math.sqrt(headSize))) : 1;
    const queries = scaled(layer, mixed.slice(keyHead, keyHead + headSize), unit);
    const own = scaled(layer, mixed.slice(keys + keyHead, keys + keyHead + headSize), 1);
    const values = mixed.slice(2 * keys + head * valueSize, 2 * keys + (head + 1) * valueSize);
    const soft = softPlus(add(at(decay!, head), at(layer.biases, head)));
    const kept = exponential(multiply(at(layer.rates, head), soft));
    const written = kind === "delta" ? sigmoid(at(strength!, head)) : soft;
    const out = values.map((x, column) => {
      const seen = multiply(kept, sumOfFour(own.map((k, row) => multiply(k, at(state[row]!, column)))));
      const change = multiply(kind === "delta" ? subtract(x, seen) : x, written);
      for (const [row, k] of own.entries())
        state[row]![column] = add(multiply(kept, at(state[row]!, column)), multiply(k, change));
      const read = sumOfFour(queries.map((q, row) => multiply(q, at(state[row]!, column))));
      return add(read, multiply(kind === "space" ? at(layer.skips, head) : 0, x));
    });
    const normed = kind === "delta" ? norm(out, layer.outputNorm) : out;
    return Array.from(normed, (x, column) => multiply(silu(at(gate!, head * valueSize + column)), x));
  });
  const all = Float32Array.from(outputs);
  if (kind !== "space") return all;
  const size = all.length / numKvHeads;
  const groups = Array.from({ length: numKvHeads }, (_, group) => [group * size, (group + 1) * size]);
  const rows = groups.map(([from, to]) => norm(all.slice(from, to), layer.outputNorm?.slice(from, to)));
  return Float32Array.from(rows.flatMap((row) => Array.from(row)));
}

/** Multiplies an output of attention by its gate. */
export function gated(output: Float32Array, gate: Float32Array): Float32Array {
  return output.map((x, i) => multiply(x, sigmoid(at(gate, i))));
}

function convolved({ taps, numTaps }: PlainRecurrence, inputs: readonly Float32Array[]): Float32Array {
  const biases = taps[numTaps];
  return taps[0]!.map((_, channel) => {
    let sum = biases ? at(biases, channel) : 0;
    for (let tap = 0; tap < numTaps; tap++) {
      const input = inputs.at(tap - numTaps);
      const isThere = inputs.length - numTaps + tap >= 0;
      sum = add(sum, multiply(at(taps[tap]!, channel), isThere ? at(input!, channel) : 0));
    }
    return sum;
  });
}

/** Divides by the length in the delta rule. */
function scaled({ kind }: PlainRecurrence, head: Float32Array, scale: number): Float32Array {
  const squares = laneSum(head.map((x) => multiply(x, x)));
  const factor = kind === "delta" ? divide(1, Math.fround(Math.sqrt(add(squares, Math.fround(1e-6))))) : 1;
  return head.map((x) => multiply(multiply(x, factor), scale));
}

/** Adds every fourth value, then these sums in pairs. */
function sumOfFour(values: Float32Array): number {
  const sums = [0, 0, 0, 0];
  for (const [i, value] of values.entries()) sums[i % 4] = add(sums[i % 4]!, value);
  return add(add(sums[0]!, sums[1]!), add(sums[2]!, sums[3]!));
}

function silu(x: number): number {
  return divide(x, add(1, exponential(subtract(0, x))));
}

export function sigmoid(x: number): number {
  const power = exponential(x < 0 ? x : -x);
  return divide(x < 0 ? power : 1, add(1, power));
}

/** `ln(1 + exp(x))` in float64, by the series of the inverse hyperbolic tangent. */
function softPlus(x: number): number {
  const power = exponential(x < 0 ? x : -x);
  const z = power / (2 + power);
  const square = z * z;
  let sum = 0;
  for (let i = 19; i > 0; i -= 2) sum = sum * square + 1 / i;
  return Math.fround(Math.max(x, 0) + 2 * z * sum);
}
