import { ropeTables, type RopeConfig } from "../config/rope.ts";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";

/** Constant tables of the angles of positions `[0, numPositions)`, each `[numPositions, headSize / 2]`. */
export interface RopeValues {
  readonly cos: Value;
  readonly sin: Value;
}

export function ropeConstants(g: GraphBuilder, rope: RopeConfig, headSize: number, numPositions: number): RopeValues {
  const shape = [numPositions, headSize / 2];
  const tables = ropeTables(rope, headSize, numPositions);
  return {
    cos: g.weight("rope.cos", "float32", shape, () => new Uint8Array(tables.cos.buffer)),
    sin: g.weight("rope.sin", "float32", shape, () => new Uint8Array(tables.sin.buffer)),
  };
}
