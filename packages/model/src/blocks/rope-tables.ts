import { ropeTables, type RopeConfig } from "../config/rope.ts";
import { onceFor } from "./once-for.ts";
import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";

/** Constant tables of the angles of positions `[0, numPositions)`, each `[numPositions, headSize / 2]`. */
export interface RopeValues {
  readonly cos: Value;
  readonly sin: Value;
}

export function ropeConstants(g: GraphBuilder, rope: RopeConfig, headSize: number, numPositions: number): RopeValues {
  const shape = [numPositions, headSize / 2];
  // Millions of sines and cosines: graphs that are only looked at, or taken from the cache, do without.
  const tables = onceFor(2, async () => ropeTables(rope, headSize, numPositions));
  return {
    cos: g.weight("rope.cos", "float32", shape, async () => new Uint8Array((await tables()).cos.buffer)),
    sin: g.weight("rope.sin", "float32", shape, async () => new Uint8Array((await tables()).sin.buffer)),
  };
}
