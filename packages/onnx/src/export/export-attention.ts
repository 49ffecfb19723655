// Attention of exported graphs: the past comes in and goes out again, grown by this run's keys and values.

import { type AttentionRefs, type ModelConfig, ropeFrequencies } from "@readme-moe/model";
import type { GraphBuilder, Value } from "../graph/graph-builder.ts";
import {
  Add,
  And,
  Concat,
  Expand,
  Mul,
  Neg,
  Range,
  Reshape,
  Shape,
  Softmax,
  Squeeze,
  Sub,
  Transpose,
  Unsqueeze,
  Where,
} from "../graph/operators.ts";
import { CastTo, Cos, LessOrEqual, MatMul, Sin, Slice } from "../graph/standard-operators.ts";
import { type ExportDtype, type ExportInput, exportInput, exportLinear } from "./export-linear.ts";
import { exportNorm } from "./export-norm.ts";

/** What all layers share. */
export interface ExportPositions {
  /** `[batch, 1, sequence, headSize]` */
  readonly cos: Value;
  readonly sin: Value;
  /** What is added to scores, `[batch, 1, sequence, total]`; one per window. */
  readonly mask: (window: number | undefined) => Value;
}

/** A layer's keys and values, `[batch, numKvHeads, positions, headSize]`. */
export interface ExportCache {
  readonly keys: Value;
  readonly values: Value;
}

// The least float32: with infinity, rows that see nothing, those of padding, would be no numbers.
const MASKED = -3.4028234663852886e38;

/**
 * @param tokenIds - int64 `[batch, sequence]`
 * @param attentionMask - int64 `[batch, total]`, 0 for padding, past included
 * @param positions - int64 `[batch, sequence]`
 */
export function exportPositions(
  g: GraphBuilder,
  config: ModelConfig,
  { tokenIds, attentionMask, positions }: Readonly<Record<"tokenIds" | "attentionMask" | "positions", Value>>,
): ExportPositions {
  const frequencies = g.weight("rope.frequencies", "float32", [config.headSize / 2], () => {
    return new Uint8Array(ropeFrequencies(config.rope, config.headSize).buffer);
  });
  const angles = Mul(g, Unsqueeze(g, CastTo(g, positions, "float32"), [1, 3]), frequencies);
  const both = Concat(g, [angles, angles], -1);

  const numQueries = Squeeze(g, Shape(g, tokenIds, 1, 2), [0]);
  const numKeys = Squeeze(g, Shape(g, attentionMask, 1, 2), [0]);
  const keys = Range(g, numKeys); // [total]
  const queries = Unsqueeze(g, Add(g, Range(g, numQueries), Sub(g, numKeys, numQueries)), [1]); // [sequence, 1]
  const isToken = CastTo(g, Unsqueeze(g, attentionMask, [1, 2]), "bool"); // [batch, 1, 1, total]
  const isVisible = And(g, isToken, LessOrEqual(g, keys, queries));
  const masks = new Map<number | undefined, Value>();
  const mask = (window: number | undefined): Value => {
    const known = masks.get(window);
    if (known) return known;
    const inWindow =
      window === undefined
        ? isVisible
        : And(g, isVisible, LessOrEqual(g, Sub(g, queries, keys), g.integer(window - 1)));
    const made = Where(g, inWindow, g.float(0), g.float(MASKED));
    masks.set(window, made);
    return made;
  };
  return { cos: Cos(g, both), sin: Sin(g, both), mask };
}

/** `x` `[batch, sequence, hiddenSize]`, normed. */
export function exportAttention(
  g: GraphBuilder,
  name: string,
  x: ExportInput,
  refs: AttentionRefs,
  past: ExportCache,
  positions: ExportPositions,
  config: ModelConfig,
  window: number | undefined,
  dtype: ExportDtype,
): { readonly output: Value; readonly present: ExportCache } {
  const { numHeads, numKvHeads, headSize } = config;
  const heads = (part: "query" | "key" | "value", count: number): Value =>
    Reshape(g, exportLinear(g, `${name}.${part}`, x, refs[part], dtype), [0, 0, count, headSize]);
  const normed = (value: Value, part: "queryNorm" | "keyNorm"): Value =>
    refs[part] ? exportNorm(g, `${name}.${part}`, value, refs[part], config.rmsNormEpsilon) : value;
  const byHead = (value: Value): Value => Transpose(g, value, [0, 2, 1, 3]);
  const queries = rotate(g, byHead(normed(heads("query", numHeads), "queryNorm")), positions, headSize);
  const newKeys = rotate(g, byHead(normed(heads("key", numKvHeads), "keyNorm")), positions, headSize);
  const present = {
    keys: Concat(g, [past.keys, newKeys], 2),
    values: Concat(g, [past.values, byHead(heads("value", numKvHeads))], 2),
  };
  // As PyTorch's exporter writes it: half of the scale on either side.
  const scale = g.float(headSize ** -0.25);
  const keys = Mul(g, Transpose(g, repeatHeads(g, present.keys, config), [0, 1, 3, 2]), scale);
  const scores = MatMul(g, Mul(g, queries, scale), keys);
  const weights = Softmax(g, Add(g, scores, positions.mask(window)), -1);
  const attended = MatMul(g, weights, repeatHeads(g, present.values, config));
  const rows = Reshape(g, byHead(attended), [0, 0, numHeads * headSize]);
  return { output: exportLinear(g, `${name}.output`, exportInput(g, rows, dtype), refs.output, dtype), present };
}

function rotate(g: GraphBuilder, x: Value, { cos, sin }: ExportPositions, headSize: number): Value {
  const half = headSize / 2;
  const turned = Concat(g, [Neg(g, Slice(g, x, half, headSize, 3)), Slice(g, x, 0, half, 3)], -1);
  return Add(g, Mul(g, x, cos), Mul(g, turned, sin));
}

/** Each key or value head once per query head that uses it. */
function repeatHeads(g: GraphBuilder, x: Value, { numHeads, numKvHeads, headSize }: ModelConfig): Value {
  const perKvHead = numHeads / numKvHeads;
  if (perKvHead === 1) return x;
  const [batch, positions] = [Shape(g, x, 0, 1), Shape(g, x, 2, 3)];
  const expanded = Concat(g, [batch, g.integers([numKvHeads, perKvHead]), positions, g.integers([headSize])], 0);
  const merged = Concat(g, [batch, g.integers([numHeads]), positions, g.integers([headSize])], 0);
  return g.node("Reshape", [Expand(g, Unsqueeze(g, x, [2]), expanded), merged]);
}
