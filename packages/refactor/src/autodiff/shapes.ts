import { operators } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { Expand, Gather, Reshape, ScatterRowsAdd, Transpose, Unsqueeze } = operators;

/** The same elements in another shape of the same count. */
export function reshape(tape: Tape, x: Tensor, shape: readonly number[]): Tensor {
  const g = tape.graph;
  return tape.record(Reshape(g, x.value, shape), shape, [[x, (gradient) => Reshape(g, gradient, x.shape)]]);
}

/** Axis `i` of the result is axis `perm[i]` of `x`. */
export function transpose(tape: Tape, x: Tensor, perm: readonly number[]): Tensor {
  const g = tape.graph;
  const inverse = perm.map((_, axis) => perm.indexOf(axis));
  const shape = perm.map((axis) => x.shape[axis] as number);
  return tape.record(Transpose(g, x.value, perm), shape, [[x, (gradient) => Transpose(g, gradient, inverse)]]);
}

/** Rows of `table` `[rows, …]` by `indices`, int64 `[n]`. The gradient is as large as the table. */
export function gatherRows(tape: Tape, table: Tensor, indices: Tensor): Tensor {
  const g = tape.graph;
  const shape = [indices.shape[0] as number, ...table.shape.slice(1)];
  return tape.record(Gather(g, table.value, indices.value), shape, [
    [
      table,
      (gradient) => {
        const zeros = Expand(g, g.floats([0]), g.integers(table.shape));
        return ScatterRowsAdd(g, zeros, Unsqueeze(g, indices.value, [1]), gradient);
      },
    ],
  ]);
}
