import * as operators from "../graphs/operators.ts";
import type { Tape, Tensor } from "./tape.ts";

const { Reshape, Transpose } = operators;

/** Returns the same elements in another shape of the same size. */
export function reshape(tape: Tape, x: Tensor, shape: readonly number[]): Tensor {
  const g = tape.graph;
  return tape.record(Reshape(g, x.value, shape), shape, [[x, (gradient) => Reshape(g, gradient, x.shape)]]);
}

/** Permutes axes: axis `i` of the result is axis `perm[i]` of `x`. */
export function transpose(tape: Tape, x: Tensor, perm: readonly number[]): Tensor {
  const g = tape.graph;
  const inverse = perm.map((_, axis) => perm.indexOf(axis));
  const shape = perm.flatMap((axis) => x.shape[axis] ?? []);
  return tape.record(Transpose(g, x.value, perm), shape, [[x, (gradient) => Transpose(g, gradient, inverse)]]);
}
