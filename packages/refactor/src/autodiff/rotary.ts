import { ropeTables, type RopeConfig } from "@readme-moe/model";
import * as operators from "../graphs/operators.ts";
import type { Tape, Tensor } from "./tape.ts";

const { Neg, RotaryEmbedding } = operators;

/** Constants of rotary embeddings: see `ropeTables`. */
export interface RotaryTables {
  /** int64 `[batch, tokens]`, or `[1]` for the first position of all rows. */
  readonly positions: Tensor;
  /** `[maxPositions, rotatedSize / 2]` */
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** Heads of which a part is rotated. */
export interface PartialHeads {
  /** Number of each head's dimensions that are rotated, from its first one. */
  readonly rotatedSize: number;
  readonly numHeads: number;
}

/** One set of angles for sequences of `tokens` tokens. */
interface AngleSet {
  /** Index of the set, which makes the names of constants different. */
  readonly set: number;
  readonly rope: RopeConfig;
  readonly rotatedSize: number;
  readonly tokens: number;
}

/** Makes the tables of sequences of `tokens` tokens, which begin at position 0. */
export function rotaryTables(tape: Tape, { set, rope, rotatedSize, tokens }: AngleSet): RotaryTables {
  const shape = [tokens, rotatedSize / 2];
  const { cos, sin } = ropeTables(rope, rotatedSize, 0, tokens);
  return {
    positions: tape.constant(`positions.${set}`, "int64", [1], BigInt64Array.of(0n)),
    cos: tape.constant(`cos.${set}`, "float32", shape, cos),
    sin: tape.constant(`sin.${set}`, "float32", shape, sin),
  };
}

/**
 * Rotates pairs `(i, i + rotatedSize / 2)` of each head; `x` `[batch, tokens, numHeads · headSize]`.
 *
 * @param partial - @default whole heads are rotated
 */
export function rotary(tape: Tape, x: Tensor, { positions, cos, sin }: RotaryTables, partial?: PartialHeads): Tensor {
  const g = tape.graph;
  const tables = { positions: positions.value, cos: cos.value, sin: sin.value };
  return tape.record(RotaryEmbedding(g, x.value, tables, partial), x.shape, [
    // The transpose of a rotation is the rotation by the opposite angle.
    [x, (gradient) => RotaryEmbedding(g, gradient, { ...tables, sin: Neg(g, sin.value) }, partial)],
  ]);
}
