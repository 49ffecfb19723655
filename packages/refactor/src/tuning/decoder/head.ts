// Losses of a decoder's last states and their gradients, some rows at a time.

import { floatOutput, type GraphTensor } from "../../graphs/session.ts";
import { gradientName } from "../../autodiff/tape.ts";
import { addInto } from "../../experts/moments.ts";
import { HIDDEN } from "../graphs/half-graphs.ts";
import type { DecoderWeights } from "./decoder-weights.ts";
import type { GraphPool } from "./graph-pool.ts";

/** Rows of logits that are in memory together; larger arrays would be returned to the system after each use. */
const HEAD_ROWS = 128;

/** Tokens that follow each row. */
export interface Labels {
  readonly ids: Int32Array;
  /** Weight of each row; 0 for rows that nothing follows. */
  readonly weights: Float32Array;
}

export interface DistilledRows {
  /** Weighted sums over rows. */
  readonly divergence: number;
  readonly crossEntropy: number;
  /** Gradient of `divergence + labelShare · crossEntropy` by the student's states. */
  readonly gradient: Float32Array;
  readonly normGradient: Float32Array;
  /** Divergence of each row, in nats. */
  readonly divergences: Float32Array;
}

/** The student's part and its teacher's. */
export interface Pair<Part> {
  readonly student: Part;
  readonly teacher: Part;
}

/**
 * Computes the loss of rows, and its gradients.
 *
 * @param states - of the last layer, `[rows, hiddenSize]`
 * @param labels - with the weight of cross-entropies in the loss
 */
export async function distillRows(
  pool: GraphPool,
  states: Pair<Float32Array>,
  weights: Pair<DecoderWeights>,
  { ids, weights: rowWeights, labelShare }: Labels & { readonly labelShare: number },
): Promise<DistilledRows> {
  const session = await pool.distillation(labelShare);
  const size = weights.student.finalNorm.values.length;
  const gradient = new Float32Array(states.student.length);
  const normGradient = new Float32Array(size);
  const divergences = new Float32Array(ids.length);
  const teacherHead = headFeeds(weights.teacher);
  const fixed = {
    ...headFeeds(weights.student),
    teacher_norm: teacherHead.norm,
    teacher_head: teacherHead.head,
  };
  let [divergence, crossEntropy] = [0, 0];
  for (const [from, to] of chunks(ids.length)) {
    const rows = (data: Float32Array): GraphTensor => ({
      data: data.subarray(from * size, to * size),
      dims: [to - from, size],
    });
    const outputs = await session.run({
      ...fixed,
      [HIDDEN]: rows(states.student),
      taught: rows(states.teacher),
      ids: idsFeed(ids.subarray(from, to)),
      weights: { data: rowWeights.subarray(from, to), dims: [to - from, 1] },
    });
    gradient.set(floatOutput(outputs, gradientName(HIDDEN)), from * size);
    addInto(normGradient, floatOutput(outputs, gradientName("norm")));
    divergences.set(floatOutput(outputs, "divergences"), from);
    const rowsWeights = rowWeights.subarray(from, to);
    divergence += weightedSum(floatOutput(outputs, "divergences"), rowsWeights);
    crossEntropy += weightedSum(floatOutput(outputs, "losses"), rowsWeights);
  }
  return { divergence, crossEntropy, gradient, normGradient, divergences };
}

/** Computes each row's cross-entropy, in nats. */
export async function crossEntropies(
  pool: GraphPool,
  hidden: Float32Array,
  weights: DecoderWeights,
  ids: Int32Array,
): Promise<Float32Array> {
  const session = await pool.crossEntropy();
  const size = weights.finalNorm.values.length;
  const losses = new Float32Array(ids.length);
  for (const [from, to] of chunks(ids.length)) {
    const outputs = await session.run({
      ...headFeeds(weights),
      [HIDDEN]: { data: hidden.subarray(from * size, to * size), dims: [to - from, size] },
      ids: idsFeed(ids.subarray(from, to)),
    });
    losses.set(floatOutput(outputs, "losses"), from);
  }
  return losses;
}

function headFeeds({ finalNorm, head }: DecoderWeights): { readonly norm: GraphTensor; readonly head: GraphTensor } {
  const size = finalNorm.values.length;
  return {
    norm: { data: finalNorm.values, dims: [size] },
    head: { data: head, dims: [head.length / size, size] },
  };
}

function* chunks(rows: number): Generator<readonly [from: number, to: number]> {
  for (let from = 0; from < rows; from += HEAD_ROWS) yield [from, Math.min(rows, from + HEAD_ROWS)];
}

function idsFeed(ids: Int32Array): GraphTensor {
  return { data: BigInt64Array.from(ids, BigInt), dims: [ids.length] };
}

function weightedSum(values: Float32Array, weights: Float32Array): number {
  return values.reduce((sum, value, i) => sum + value * weights[i]!, 0);
}
