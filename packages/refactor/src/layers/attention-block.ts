// A layer's attention over whole sequences of equal length, laid end to end.

import { ropeTables, type AttentionRefs, type ModelConfig } from "@readme-moe/model";
import { operators, type Feeds, type GraphBuilder, type Value } from "@readme-moe/onnx";
import { floatWeight, linear } from "./float-blocks.ts";

const {
  Add,
  And,
  Concat,
  Expand,
  FusedMatMul,
  Gather,
  Less,
  Mul,
  Reshape,
  RotaryEmbedding,
  SimplifiedLayerNormalization,
  SliceRows,
  Softmax,
  Split,
  Sub,
  Transpose,
  Unsqueeze,
  Where,
} = operators;

// Far below any score, and still finite after one is added.
const MASKED = -1e30;

/**
 * What graphs with `attentionBlock` take besides hidden states: `token_rows` and `positions`, int64 `[sequences, tokens]`, which row
 * and which position each token has.
 */
export function attentionFeeds(numSequences: number, sequenceTokens: number): Feeds {
  const dims = [numSequences, sequenceTokens];
  const rows = BigInt64Array.from({ length: numSequences * sequenceTokens }, (_, row) => BigInt(row));
  const positions = rows.map((row) => row % BigInt(sequenceTokens));
  return { token_rows: { data: rows, dims }, positions: { data: positions, dims } };
}

/**
 * Causal self-attention with grouped heads. Declares what `attentionFeeds` gives. `x` `[tokens, hiddenSize]`, normed; the result has
 * its shape.
 *
 * @param config - with the layer for its only one
 */
export function attentionBlock(g: GraphBuilder, x: Value, refs: AttentionRefs, config: ModelConfig): Value {
  const { numHeads, numKvHeads, headSize } = config;
  const [querySize, keySize] = [numHeads * headSize, numKvHeads * headSize];
  const tokenRows = g.input("token_rows", "int64", ["sequences", "sequence_tokens"]);
  const positions = g.input("positions", "int64", ["sequences", "sequence_tokens"]);
  const projected = linear(g, "attention.qkv", x, [refs.query, refs.key, refs.value]);
  const bySequence = (rows: Value): Value => Gather(g, rows, tokenRows);
  const [queriesAndKeys, values] = Split(g, projected, [querySize + keySize, keySize], 1) as [Value, Value];
  const turned = rotate(g, bySequence(normHeads(g, queriesAndKeys, refs, config)), positions, config);
  const [queries, keys] = Split(g, turned, [querySize, keySize], 2) as [Value, Value];
  const attended = attend(g, { queries, keys, values: bySequence(values) }, causalMask(g, positions, config), config);
  return linear(g, "attention.output", attended, [refs.output]);
}

/** RMS norm of each query and key head, `[tokens, heads · headSize]` in and out. */
function normHeads(g: GraphBuilder, x: Value, { queryNorm, keyNorm }: AttentionRefs, config: ModelConfig): Value {
  if (!queryNorm || !keyNorm) return x;
  const { numHeads, numKvHeads, headSize, rmsNormEpsilon } = config;
  const numRows = numHeads + numKvHeads;
  // The norm takes one scale for all rows, queries and keys have two: norm with ones, then scale.
  const ones = g.floats(Array.from({ length: headSize }, () => 1));
  const normed = SimplifiedLayerNormalization(g, Reshape(g, x, [-1, numRows, headSize]), ones, rmsNormEpsilon);
  const scales = Concat(
    g,
    [
      Expand(g, floatWeight(g, "attention.q_norm", [queryNorm]), g.integers([numHeads, headSize])),
      Expand(g, floatWeight(g, "attention.k_norm", [keyNorm]), g.integers([numKvHeads, headSize])),
    ],
    0,
  );
  return Reshape(g, Mul(g, normed, scales), [-1, numRows * headSize]);
}

/** Turns queries and keys by their positions, `[sequences, tokens, heads · headSize]` in and out. */
function rotate(g: GraphBuilder, x: Value, positions: Value, config: ModelConfig): Value {
  const { rope, headSize, contextTokens } = config;
  const shape = [contextTokens, headSize / 2];
  let tables: ReturnType<typeof ropeTables> | undefined;
  const table = (name: "cos" | "sin"): Value =>
    g.weight(`rope.${name}`, "float32", shape, () => {
      tables ??= ropeTables(rope, headSize, contextTokens);
      const { buffer, byteOffset, byteLength } = tables[name];
      return new Uint8Array(buffer, byteOffset, byteLength);
    });
  return RotaryEmbedding(g, x, positions, table("cos"), table("sin"));
}

/** What is added to scores, `[1, tokens, tokens]`: a query at position p sees positions `(p - window, p]`. */
function causalMask(g: GraphBuilder, positions: Value, { slidingWindows: [window] }: ModelConfig): Value {
  const ofOne = SliceRows(g, positions, 0, 1);
  const [query, key] = [Unsqueeze(g, ofOne, [2]), Unsqueeze(g, ofOne, [1])];
  const isBefore = Less(g, key, Add(g, query, g.integer(1)));
  const sees = window === undefined ? isBefore : And(g, isBefore, Less(g, Sub(g, query, g.integer(window)), key));
  return Where(g, sees, g.float(0), g.float(MASKED));
}

interface AttentionRows {
  readonly queries: Value; // [sequences, tokens, numHeads * headSize]
  readonly keys: Value; // [sequences, tokens, numKvHeads * headSize]
  readonly values: Value; // [sequences, tokens, numKvHeads * headSize]
}

/** `softmax(queries · keysᵀ / √headSize + mask) · values`, `[sequences * tokens, numHeads * headSize]`. */
function attend(
  g: GraphBuilder,
  rows: AttentionRows,
  mask: Value,
  { numHeads, numKvHeads, headSize }: ModelConfig,
): Value {
  const perKvHead = numHeads / numKvHeads;
  // Heads that share keys are more rows of one product; masks are per query, and meet scores head by head.
  const asHeads = (x: Value): Value => Reshape(g, x, [0, 0, perKvHead, -1, 0]);
  const asRows = (x: Value): Value => Reshape(g, x, [0, 0, 1, -1, 0]);
  const byHead = Transpose(g, Reshape(g, rows.queries, [0, 0, numKvHeads, perKvHead, headSize]), [0, 2, 3, 1, 4]);
  const [keys, values] = [rows.keys, rows.values].map((x) =>
    Unsqueeze(g, Transpose(g, Reshape(g, x, [0, 0, numKvHeads, headSize]), [0, 2, 1, 3]), [2]),
  ) as [Value, Value];
  const scores = FusedMatMul(g, asRows(byHead), keys, { transB: true, alpha: 1 / Math.sqrt(headSize) });
  const weights = asRows(Softmax(g, Add(g, asHeads(scores), mask), -1));
  const attended = asHeads(FusedMatMul(g, weights, values));
  return Reshape(g, Transpose(g, attended, [0, 3, 1, 2, 4]), [-1, numHeads * headSize]);
}
