// Attention that never returns the cache: past keys and values are inputs, read in place, and only this step's
// new keys and values leave the graph.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import {
  Add,
  Concat,
  Expand,
  FusedMatMul,
  Gather,
  Mul,
  ReduceSum,
  Reshape,
  RotaryEmbedding,
  SimplifiedLayerNormalization,
  Softmax,
  Split,
  Squeeze,
  Transpose,
  Unsqueeze,
} from "../onnx/operators.ts";
import type { AttentionRefs } from "../weights/model-weights.ts";
import { activation, type Activation } from "./activation.ts";
import type { AttentionGroup } from "./attention-group.ts";
import { floatWeight, linear } from "./linear.ts";
import type { RopeValues } from "./rope-tables.ts";

/**
 * Sizes of one attention layer. Query heads are a multiple of key and value heads; sizes in floats, the window in
 * tokens.
 */
export interface AttentionShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headSize: number;
  /** Scores are multiplied by this before the softmax; `1 / sqrt(headSize)` in Llama. */
  readonly scale: number;
  readonly slidingWindow: number | undefined;
  /** Of the norm of queries and keys, where there is one. */
  readonly normEpsilon: number;
}

/** What the step's tokens need besides their activations. */
export interface AttentionInputs {
  readonly rope: RopeValues;
  /** int64 `[tokens, 1]`. */
  readonly positions: Value;
  /** The first one decodes. */
  readonly groups: readonly [AttentionGroup, ...AttentionGroup[]];
  /**
   * bool `[1]`: the step's tokens are the first group's sequences, one each and in their order. Most steps are, and
   * need not pay for finding rows and for groups without sequences, a sixth of a small model's step.
   */
  readonly isPlainDecode: Value;
  /** int64 `[tokens]`: row of each token in the groups' rows, laid end to end. */
  readonly groupRows: Value;
}

/**
 * What one attention layer puts out. The cache stays outside of the graph: only this step's keys and values leave it.
 */
export interface AttentionOutput {
  readonly output: Value; // [tokens, hiddenSize]
  readonly newKeys: Value; // [tokens, numKvHeads * headSize], after RoPE
  readonly newValues: Value; // [tokens, numKvHeads * headSize]
}

/** `x` `[tokens, hiddenSize]`, normed. */
export function attention(
  g: GraphBuilder,
  name: string,
  layer: number,
  x: Activation,
  refs: AttentionRefs,
  shape: AttentionShape,
  inputs: AttentionInputs,
): AttentionOutput {
  const [querySize, keySize] = [shape.numHeads * shape.headSize, shape.numKvHeads * shape.headSize];
  const projected = linear(g, `${name}.qkv`, x, [refs.query, refs.key, refs.value]);
  const [queriesAndKeys, newValues] = Split(g, projected, [querySize + keySize, keySize], 1) as [Value, Value];
  const rotated = rotate(g, normHeads(g, name, queriesAndKeys, refs, shape), inputs);
  const [queries, newKeys] = Split(g, rotated, [querySize, keySize], 1) as [Value, Value];
  const flat = { queries, newKeys, newValues };
  // All layers share a mask, so it has to be made outside of their branches.
  for (const group of inputs.groups) group.mask(shape.slidingWindow);
  const attended = g.ifElse(
    inputs.isPlainDecode,
    () => attend(g, layer, inputs.groups[0], flat, shape),
    () => {
      const rows = inputs.groups.map((group) => attend(g, layer, group, gatherRows(g, flat, group), shape));
      return Gather(g, Concat(g, rows, 0), inputs.groupRows);
    },
  );
  const output = linear(g, `${name}.output`, activation(g, attended, x), [refs.output]);
  return { output, newKeys, newValues };
}

/** RMS norm of each query and key head, `[tokens, heads · headSize]` in and out. */
function normHeads(g: GraphBuilder, name: string, x: Value, refs: AttentionRefs, shape: AttentionShape): Value {
  const { queryNorm, keyNorm } = refs;
  if (!queryNorm || !keyNorm) return x;
  const { numHeads, numKvHeads, headSize } = shape;
  const numRows = numHeads + numKvHeads;
  // The norm takes one scale for all rows, queries and keys have two: norm with ones, then scale.
  const ones = g.floats(Array.from({ length: headSize }, () => 1));
  const normed = SimplifiedLayerNormalization(g, Reshape(g, x, [-1, numRows, headSize]), ones, shape.normEpsilon);
  const scales = Concat(
    g,
    [
      Expand(g, floatWeight(g, `${name}.q_norm`, [queryNorm]), g.integers([numHeads, headSize])),
      Expand(g, floatWeight(g, `${name}.k_norm`, [keyNorm]), g.integers([numKvHeads, headSize])),
    ],
    0,
  );
  return Reshape(g, Mul(g, normed, scales), [-1, numRows * headSize]);
}

/** Each token is a sequence of one to the operator, since positions of neighbours in the flat list are unrelated. */
function rotate(g: GraphBuilder, x: Value, { positions, rope }: AttentionInputs): Value {
  const turned = RotaryEmbedding(g, Unsqueeze(g, x, [1]), positions, rope.cos, rope.sin);
  return Squeeze(g, turned, [1]);
}

/**
 * Queries, new keys and new values of one group's sequences: `[sequences, heads · headSize]` when decoding, else
 * `[sequences, queries, heads · headSize]`.
 */
interface AttentionRows {
  readonly queries: Value;
  readonly newKeys: Value;
  readonly newValues: Value;
}

function gatherRows(g: GraphBuilder, flat: AttentionRows, { tokens }: AttentionGroup): AttentionRows {
  return {
    queries: Gather(g, flat.queries, tokens),
    newKeys: Gather(g, flat.newKeys, tokens),
    newValues: Gather(g, flat.newValues, tokens),
  };
}

/**
 * One group's attention: `softmax(scale · q · [past keys, new keys]ᵀ + mask) · [past values, new values]`, `[rows, numHeads · headSize]`.
 *
 * A group that does not only decode must have at least one sequence: the runtime cannot fold axes of nothing.
 */
function attend(
  g: GraphBuilder,
  layer: number,
  group: AttentionGroup,
  rows: AttentionRows,
  shape: AttentionShape,
): Value {
  const { numHeads, numKvHeads, headSize, scale } = shape;
  const perKvHead = numHeads / numKvHeads;
  // In prefill the heads that share keys are rows of one product, [.., 1, perKvHead * queries, ..]; masks are per query,
  // so they meet scores as [.., perKvHead, queries, ..]. A decoding sequence has one query per head: each is a product
  // of its own, [.., perKvHead, 1, ..], since products of one row read the keys as they are, and those of three copy
  // them first, which takes twice as long. Only products without a factor do, so there the queries are scaled; in
  // prefill a product of one row or one key must not differ from those of many, so there the product has the factor.
  const asHeads = (x: Value): Value => (group.isDecode ? x : Reshape(g, x, [0, 0, perKvHead, -1, 0]));
  const asRows = (x: Value): Value => (group.isDecode ? x : Reshape(g, x, [0, 0, 1, -1, 0]));
  const queries = group.isDecode
    ? Reshape(g, Mul(g, rows.queries, g.float(scale)), [0, numKvHeads, perKvHead, 1, headSize])
    : asRows(Transpose(g, Reshape(g, rows.queries, [0, 0, numKvHeads, perKvHead, headSize]), [0, 2, 3, 1, 4]));
  const newKeys = keyHeads(g, rows.newKeys, group, shape);
  const newValues = keyHeads(g, rows.newValues, group, shape);
  // A decoding sequence has one new key and one new value: products of single numbers, for which a matrix product each would
  // take as long as for the past.
  const newScores = group.isDecode
    ? Unsqueeze(g, ReduceSum(g, Mul(g, queries, newKeys), 4), [4])
    : FusedMatMul(g, queries, newKeys, { transB: true, alpha: scale });
  const weigh = (scores: Value): Value =>
    asRows(Softmax(g, Add(g, asHeads(scores), group.mask(shape.slidingWindow)), -1));

  const { past } = group;
  let attended: Value;
  if (past) {
    const [pastKeys, pastValues] = [past.keys(layer), past.values(layer)];
    const pastScores = FusedMatMul(g, queries, pastKeys, { transB: true, alpha: group.isDecode ? 1 : scale });
    const weights = weigh(Concat(g, [pastScores, newScores], 4));
    const [pastWeights, newWeights] = Split(g, weights, { sizes: past.keySizes, count: 2 }, 4) as [Value, Value];
    const ofNew = group.isDecode ? Mul(g, newWeights, newValues) : FusedMatMul(g, newWeights, newValues);
    attended = Add(g, FusedMatMul(g, pastWeights, pastValues), ofNew);
  } else {
    attended = FusedMatMul(g, weigh(newScores), newValues);
  }
  const byQuery = group.isDecode ? attended : Transpose(g, asHeads(attended), [0, 3, 1, 2, 4]);
  return Reshape(g, byQuery, [-1, numHeads * headSize]);
}

/** Keys or values of `AttentionRows` -> `[sequences, numKvHeads, 1, queries, headSize]`. */
function keyHeads(g: GraphBuilder, rows: Value, group: AttentionGroup, shape: AttentionShape): Value {
  const { numKvHeads, headSize } = shape;
  if (group.isDecode) return Reshape(g, rows, [0, numKvHeads, 1, 1, headSize]);
  return Unsqueeze(g, Transpose(g, Reshape(g, rows, [0, 0, numKvHeads, headSize]), [0, 2, 1, 3]), [2]);
}
