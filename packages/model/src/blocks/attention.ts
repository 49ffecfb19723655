// Attention that never returns the cache: past keys and values are inputs, read in place, and only this step's
// new keys and values leave the graph.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import {
  Concat,
  Expand,
  Gather,
  Mul,
  Reshape,
  RotaryEmbedding,
  SimplifiedLayerNormalization,
  Split,
  Squeeze,
  Unsqueeze,
} from "../onnx/operators.ts";
import type { AttentionRefs } from "../weights/model-weights.ts";
import { activation, type Activation } from "./activation.ts";
import { attend, type AttentionRows, type AttentionShape } from "./attend.ts";
import type { AttentionGroup } from "./attention-group.ts";
import { floatWeight, linear } from "./linear.ts";
import type { RopeValues } from "./rope-tables.ts";

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

function gatherRows(g: GraphBuilder, flat: AttentionRows, { tokens }: AttentionGroup): AttentionRows {
  return {
    queries: Gather(g, flat.queries, tokens),
    newKeys: Gather(g, flat.newKeys, tokens),
    newValues: Gather(g, flat.newValues, tokens),
  };
}
