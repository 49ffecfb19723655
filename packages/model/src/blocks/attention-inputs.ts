import type { RopeConfig } from "../config/rope.ts";
import type { GraphBuilder } from "../onnx/graph-builder.ts";
import { Unsqueeze } from "../onnx/operators.ts";
import { attentionGroup } from "./attention-group.ts";
import type { AttentionInputs } from "./attention.ts";
import { ropeConstants } from "./rope-tables.ts";

/**
 * Declares what `planAttention` feeds, but the tokens themselves:
 * - `positions` int64 `[tokens]`
 * - of the groups `decode`, `decode_other`, `continued` and `fresh`: see `attentionGroup`
 * - `is_plain_decode` bool `[1]`, `group_rows` int64 `[tokens]`: see `AttentionInputs`
 */
export function attentionInputs(
  g: GraphBuilder,
  rope: RopeConfig,
  shape: {
    readonly numLayers: number;
    readonly numKvHeads: number;
    readonly headSize: number;
    readonly contextTokens: number;
  },
): AttentionInputs {
  const positions = g.input("positions", "int64", ["tokens"]);
  return {
    rope: ropeConstants(g, rope, shape.headSize, shape.contextTokens),
    positions: Unsqueeze(g, positions, [1]),
    groups: [
      attentionGroup(g, "decode", { isDecode: true, hasPast: true }, shape),
      attentionGroup(g, "decode_other", { isDecode: true, hasPast: true }, shape),
      attentionGroup(g, "continued", { isDecode: false, hasPast: true }, shape),
      attentionGroup(g, "fresh", { isDecode: false, hasPast: false }, shape),
    ],
    isPlainDecode: g.input("is_plain_decode", "bool", [1]),
    groupRows: g.input("group_rows", "int64", ["tokens"]),
  };
}
