// Losses over rows of logits: cross-entropy with given targets, and the losses of a head over a whole vocabulary.

import * as operators from "../graphs/operators.ts";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import { deterministicGemm, type ProductSize } from "../linear-algebra/deterministic-gemm.ts";
import { ANY_ROWS, type Tape, type Tensor } from "./tape.ts";

const {
  Add,
  AddToColumns,
  Concat,
  FrozenProduct,
  Gather,
  GatherColumns,
  Log,
  Mul,
  Neg,
  ReduceLogSumExp,
  ReduceMax,
  ReduceSum,
  Reshape,
  ScatterColumns,
  Slice,
  Softmax,
  Sub,
  Unsqueeze,
} = operators;

/**
 * Sums `-Σ target · log softmax(logits)` over rows, `[1]`; both inputs are `[rows, classes]`. A row of targets that
 * sums to `w` counts as `w` rows: weights are part of the targets, and rows of zeros are left out.
 */
export function crossEntropy(tape: Tape, logits: Tensor, targets: Tensor): Tensor {
  const g = tape.graph;
  const weights = ReduceSum(g, targets.value, 1);
  const hit = ReduceSum(g, Mul(g, targets.value, logits.value), 1);
  const rows = Sub(g, Mul(g, weights, ReduceLogSumExp(g, logits.value, 1)), hit);
  const rule = (gradient: Value): Value => {
    const predicted = Mul(g, Softmax(g, logits.value, -1), Unsqueeze(g, weights, [1]));
    return Mul(g, gradient, Sub(g, predicted, targets.value));
  };
  return tape.record(Reshape(g, ReduceSum(g, rows, 0), [1]), [1], [[logits, rule]]);
}

/** Best outputs of a row, and their weights; others have none. */
interface Candidates {
  /** int64 `[rows, candidates]`; one that occurs several times has all its weights. */
  readonly ids: Tensor;
  /** `[rows, candidates]`; a row counts as its sum. */
  readonly shares: Tensor;
}

/** Sums `-Σ share · log softmax(logits)[id]` over rows of logits, `[1]`: `crossEntropy` of sparse targets. */
export function candidateCrossEntropy(tape: Tape, logits: Tensor, { ids, shares }: Candidates): Tensor {
  const g = tape.graph;
  const weights = ReduceSum(g, shares.value, 1);
  const predicted = Softmax(g, logits.value, -1);
  const hit = ReduceSum(g, Mul(g, shares.value, GatherColumns(g, logits.value, ids.value)), 1);
  const rows = Sub(g, Mul(g, weights, logSumsOf(g, logits.value, predicted)), hit);
  const rule = (gradient: Value): Value => {
    const pulled = Mul(g, predicted, Mul(g, gradient, Unsqueeze(g, weights, [1])));
    return AddToColumns(g, pulled, ids.value, Neg(g, Mul(g, gradient, shares.value)));
  };
  return tape.record(Reshape(g, ReduceSum(g, rows, 0), [1]), [1], [[logits, rule]]);
}

/**
 * Computes `log Σ exp` from each row's largest logit and probability: the exponentials of a vocabulary are expensive.
 */
function logSumsOf(g: GraphBuilder, logits: Value, probabilities: Value): Value {
  const logSums = Sub(g, ReduceMax(g, logits, 1), Log(g, ReduceMax(g, probabilities, 1)));
  return Reshape(g, logSums, [-1]);
}

function logitsOf(g: GraphBuilder, rows: Value, head: Tensor, size: ProductSize | undefined): Value {
  return head.frozen === undefined
    ? deterministicGemm(g, rows, head.value, { size })
    : FrozenProduct(g, rows, head.frozen);
}

/** The part of rows' losses that the next tokens' own logits are. */
interface OwnLogits {
  readonly logitsOf: (rows: Value, logits: Value) => Value;
  /** Computes gradients of rows. @param pulled - gradients of logits, which lack the part of own ones, `-share` */
  readonly slopeOf: (pulled: Value, share: number, size: ProductSize | undefined) => Value;
}

function ownOf(g: GraphBuilder, head: Tensor, ids: Value): OwnLogits {
  const { frozen } = head;
  if (frozen === undefined) {
    const own = Gather(g, head.value, ids);
    return {
      logitsOf: (rows) => ReduceSum(g, Mul(g, rows, own), 1),
      slopeOf: (pulled, share, size) => {
        const byRows = deterministicGemm(g, pulled, head.value, { size, transB: false });
        return Sub(g, byRows, share === 1 ? own : Mul(g, own, g.floats([share])));
      },
    };
  }
  const columns = Unsqueeze(g, ids, [1]);
  return {
    logitsOf: (_, logits) => Reshape(g, GatherColumns(g, logits, columns), [-1]),
    slopeOf: (pulled, share) => {
      const own = share === 0 ? undefined : Sub(g, GatherColumns(g, pulled, columns), g.floats([share]));
      return FrozenProduct(g, own ? ScatterColumns(g, pulled, columns, own) : pulled, frozen, true);
    },
  };
}

/** Inputs of `headLosses`. Only `x` has a gradient. */
export interface HeadInputs {
  /** `[rows, size]` */
  readonly x: Tensor;
  /** `[vocabulary, size]` */
  readonly head: Tensor;
  /** Token that follows each row, int64 `[rows]`. */
  readonly ids: Tensor;
}

/** Shares of a loss, and the teacher that it compares with. */
export interface HeadLoss {
  /** Weight of each row, `[rows, 1]`. */
  readonly weights: Tensor;
  /** Weight of the cross-entropy. */
  readonly labelShare: number;
  /** Weight of the divergence from the teacher. */
  readonly teacherShare: number;
  /** Teacher's rows, `[rows, size]`; without them, there is no divergence. */
  readonly taught?: Tensor | undefined;
  /** @default the same head */
  readonly teacherHead?: Tensor | undefined;
}

/** Part of the rows; all rows where it is absent. */
type Range = { readonly start: number; readonly end: number } | undefined;

/**
 * Computes the cross-entropy of each row's next token, `[rows]`. `rowsTogether` rows have logits at a time, since a row
 * of logits is as long as the vocabulary; any number of rows has them together.
 *
 * @returns also a function that appends `Σ weight · (labelShare · cross-entropy + teacherShare · divergence)`, `[1]`,
 *   and each row's `Σ teacher · (log teacher - log student)`, `[rows]`
 */
export function headLosses(
  tape: Tape,
  { x, head, ids }: HeadInputs,
  rowsTogether: number,
): {
  readonly rows: Value;
  readonly loss: (options: HeadLoss) => { readonly loss: Tensor; readonly divergences: Value | undefined };
} {
  const g = tape.graph;
  const [numRows = 0, inner = 0] = x.shape;
  const [columns = 0] = head.shape;
  const ranges = Array.from({ length: Math.ceil(numRows / rowsTogether) }, (_, place) => ({
    start: place * rowsTogether,
    end: Math.min(numRows, (place + 1) * rowsTogether),
  }));
  const cut = ({ value }: Tensor, range: Range): Value => (range ? Slice(g, value, range) : value);
  const join = (values: readonly Value[]): Value => Concat(g, values, 0);
  const scaled = (value: Value, factor: number): Value => (factor === 1 ? value : Mul(g, value, g.floats([factor])));
  const pieces = (numRows === ANY_ROWS ? [undefined] : ranges).map((range: Range) => {
    const rows = cut(x, range);
    const size = range && { rows: range.end - range.start, columns, inner };
    const own = ownOf(g, head, cut(ids, range));
    const logits = logitsOf(g, rows, head, size);
    const predicted = Softmax(g, logits, -1);
    const logSums = logSumsOf(g, logits, predicted);
    return {
      range,
      size,
      own,
      logits,
      predicted,
      logSums,
      losses: Sub(g, logSums, own.logitsOf(rows, logits)),
    };
  });
  const loss = ({ weights, labelShare, teacherShare, taught, teacherHead = head }: HeadLoss) => {
    const parts = pieces.map(({ range, size, own, logits, predicted, logSums, losses }) => {
      const back = size && { rows: size.rows, columns: inner, inner: columns };
      const rowWeights = cut(weights, range);
      const labelled = scaled(losses, labelShare);
      const slopeOf = (pulled: Value): Value => Mul(g, own.slopeOf(pulled, labelShare, back), rowWeights);
      const weighted = (sum: Value): Value => Mul(g, sum, Reshape(g, rowWeights, [-1]));
      if (!taught) {
        const slope = (): Value => slopeOf(scaled(predicted, labelShare));
        return { weighted: weighted(labelled), slope, divergences: undefined };
      }
      const teacher = logitsOf(g, cut(taught, range), teacherHead, size);
      const wanted = Softmax(g, teacher, -1);
      const gap = ReduceSum(g, Mul(g, wanted, Sub(g, teacher, logits)), 1);
      const divergences = Add(g, gap, Sub(g, logSums, logSumsOf(g, teacher, wanted)));
      // One gradient by the logits: a second one would be as long as the vocabulary, too.
      const pulled = (): Value => Sub(g, scaled(predicted, labelShare + teacherShare), scaled(wanted, teacherShare));
      return {
        weighted: weighted(Add(g, labelled, scaled(divergences, teacherShare))),
        slope: () => slopeOf(pulled()),
        divergences,
      };
    });
    const sum = Reshape(g, ReduceSum(g, join(parts.map(({ weighted }) => weighted)), 0), [1]);
    const rule = (gradient: Value): Value => Mul(g, join(parts.map(({ slope }) => slope())), gradient);
    const divergences = parts.flatMap((part) => part.divergences ?? []);
    return {
      loss: tape.record(sum, [1], [[x, rule]]),
      divergences: divergences.length > 0 ? join(divergences) : undefined,
    };
  };
  return { rows: join(pieces.map(({ losses }) => losses)), loss };
}
