// Attention of exported graphs: keys and values of the past come in, and go out with those of this run appended.

import { layerConfig, type ModelConfig, ropeFrequencies, ropeScale } from "@readme-moe/model";
import type { GraphBuilder, Value } from "../graph/graph-builder.ts";
import {
  Add,
  And,
  CastTo,
  Concat,
  Cos,
  LessOrEqual,
  MatMul,
  Mul,
  Neg,
  Range,
  Reshape,
  Shape,
  Sin,
  Slice,
  Softmax,
  Squeeze,
  Sub,
  Transpose,
  Unsqueeze,
  Where,
} from "../graph/operators.ts";

/** Cosines and sines of one set of angles, `[batch, 1, sequence, rotatedSize]`. */
interface ExportAngles {
  readonly cos: Value;
  readonly sin: Value;
}

/** Values that all layers share. */
export interface ExportPositions {
  /** Angles of each set. */
  readonly angles: readonly ExportAngles[];
  /** Makes the summand of scores, `[batch, 1, sequence, total]`, once per window. */
  readonly mask: (window: number | undefined) => Value;
}

/** Keys and values of a layer, `[batch, numKvHeads, positions, headSize]`. */
export interface ExportCache {
  readonly keys: Value;
  readonly values: Value;
}

// The least float32: with infinity, rows of padding, which see nothing, would become NaN.
const MASKED = -3.4028234663852886e38;

/**
 * Computes rotary angles and masks.
 *
 * @param tokenIds - int64 `[batch, sequence]`
 * @param attentionMask - int64 `[batch, total]`, past included, 0 for padding
 * @param positions - int64 `[batch, sequence]`
 */
export function exportPositions(
  g: GraphBuilder,
  config: ModelConfig,
  { tokenIds, attentionMask, positions }: Readonly<Record<"tokenIds" | "attentionMask" | "positions", Value>>,
): ExportPositions {
  const places = Unsqueeze(g, CastTo(g, positions, "float32"), [1, 3]);
  const angles = config.ropes.map((rope, set): ExportAngles => {
    const name = set === 0 ? "rope.frequencies" : `rope.frequencies.${set}`;
    const frequencies = g.weight(name, "float32", [config.rotatedSize / 2], () => {
      return new Uint8Array(ropeFrequencies(rope, config.rotatedSize).buffer);
    });
    const half = Mul(g, places, frequencies);
    const both = Concat(g, [half, half], -1);
    const scale = ropeScale(rope);
    const scaled = (x: Value): Value => (scale === 1 ? x : Mul(g, x, g.float(scale)));
    return { cos: scaled(Cos(g, both)), sin: scaled(Sin(g, both)) };
  });

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
  return { angles, mask };
}

/** Rows of one run, `[batch, sequence, heads · headSize]`. */
export interface ExportRows {
  readonly queries: Value;
  readonly keys: Value;
  readonly values: Value;
}

/** Attention of one layer. */
export interface ExportAttention {
  readonly config: ModelConfig;
  /** Index of the layer. */
  readonly layer: number;
  readonly positions: ExportPositions;
  readonly past: ExportCache;
}

/** Computes each head's weighted sums of values, `[batch, sequence, numHeads · headSize]`, and the grown cache. */
export function exportAttention(
  g: GraphBuilder,
  rows: ExportRows,
  { config, layer, positions, past }: ExportAttention,
): { readonly attended: Value; readonly present: ExportCache } {
  const { numHeads, numKvHeads, headSize, rotatedSize } = config;
  const byHead = (x: Value, count: number): Value => Transpose(g, Reshape(g, x, [0, 0, count, headSize]), [0, 2, 1, 3]);
  const { slidingWindow, angleSet } = layerConfig(config, layer);
  const angles = angleSet === undefined ? undefined : positions.angles[angleSet];
  const rotated = (x: Value): Value => (angles ? rotate(g, x, angles, { headSize, rotatedSize }) : x);
  const present = {
    keys: Concat(g, [past.keys, rotated(byHead(rows.keys, numKvHeads))], 2),
    values: Concat(g, [past.values, byHead(rows.values, numKvHeads)], 2),
  };
  // Query heads with the same keys are rows of one product; masks are per query and are added head by head.
  const asRows = (x: Value): Value => Reshape(g, x, [0, numKvHeads, -1, 0]);
  const asHeads = (x: Value): Value => Reshape(g, x, [0, numHeads, -1, 0]);
  // PyTorch's exporter splits the scale between the two factors, too.
  const scale = g.float(Math.sqrt(config.attentionScale));
  const queries = asRows(Mul(g, rotated(byHead(rows.queries, numHeads)), scale));
  const keys = Mul(g, Transpose(g, present.keys, [0, 1, 3, 2]), scale);
  const scores = asHeads(MatMul(g, queries, keys));
  const weights = asRows(Softmax(g, Add(g, scores, positions.mask(slidingWindow)), -1));
  const attended = Transpose(g, asHeads(MatMul(g, weights, present.values)), [0, 2, 1, 3]);
  return { attended: Reshape(g, attended, [0, 0, numHeads * headSize]), present };
}

/** Rotates heads `[batch, heads, sequence, headSize]`; dimensions behind the rotated ones stay. */
function rotate(
  g: GraphBuilder,
  x: Value,
  { cos, sin }: ExportAngles,
  { headSize, rotatedSize }: Pick<ModelConfig, "headSize" | "rotatedSize">,
): Value {
  const half = rotatedSize / 2;
  const part = (start: number, end: number): Value => Slice(g, x, { start, end, axis: 3 });
  const turned = Concat(g, [Neg(g, part(half, rotatedSize)), part(0, half)], -1);
  const isWhole = rotatedSize === headSize;
  const rotated = Add(g, Mul(g, isWhole ? x : part(0, rotatedSize), cos), Mul(g, turned, sin));
  return isWhole ? rotated : Concat(g, [rotated, part(rotatedSize, headSize)], -1);
}
