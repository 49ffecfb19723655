import { operators } from "@readme-moe/onnx";
import type { Tape, Tensor } from "./tape.ts";

const { Neg, RotaryEmbedding } = operators;

/** What rotary embeddings take of the positions: see `ropeTables`. */
export interface RotaryTables {
  /** int64 `[batch, tokens]` */
  readonly positions: Tensor;
  /** `[maxPositions, headSize / 2]` */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Rotates pairs `(i, i + headSize / 2)` of each head; `x` `[batch, tokens, numHeads · headSize]`. */
export function rotary(tape: Tape, x: Tensor, { positions, cos, sin }: RotaryTables): Tensor {
  const g = tape.graph;
  return tape.record(RotaryEmbedding(g, x.value, positions.value, cos.value, sin.value), x.shape, [
    // Turned back: a rotation's transpose is the rotation by the opposite angle.
    [x, (gradient) => RotaryEmbedding(g, gradient, positions.value, cos.value, Neg(g, sin.value))],
  ]);
}
