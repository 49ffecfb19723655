import * as operators from "../graphs/operators.ts";
import { shift } from "./arithmetic.ts";
import { causalMask } from "./causal-mask.ts";
import type { Tape, Tensor } from "./tape.ts";

const {
  Add,
  Mul,
  Reciprocal,
  ReduceMean,
  ReduceSum,
  Reshape,
  SimplifiedLayerNormalization,
  Softmax,
  Sqrt,
  Sub,
  Unsqueeze,
} = operators;

/** Number under a norm's root, and the number that is added to its stored scales. */
export interface NormNumbers {
  readonly epsilon: number;
  /** @default 0 */
  readonly offset?: number;
}

/** `x / rms(x) · (stored + offset)` over the last axis; `x` `[rows, size]`, `stored` `[size]`. */
export function rmsNorm(tape: Tape, x: Tensor, stored: Tensor, { epsilon, offset = 0 }: NormNumbers): Tensor {
  const g = tape.graph;
  const scale = offset === 0 ? stored : shift(tape, stored, offset);
  if (!x.needsGradient && !scale.needsGradient) {
    return tape.record(SimplifiedLayerNormalization(g, x.value, scale.value, epsilon), x.shape, []);
  }
  const square = ReduceMean(g, Mul(g, x.value, x.value), 1);
  // Composed of plain operators: the inverse deviation, an optional output of the runtime's norm, is wrong on some
  // devices.
  const inverse = Reciprocal(g, Sqrt(g, Add(g, square, g.floats([epsilon]))));
  const normed = Mul(g, x.value, inverse);
  return tape.record(Mul(g, normed, scale.value), x.shape, [
    [
      x,
      (gradient) => {
        const scaled = Mul(g, gradient, scale.value);
        const along = ReduceMean(g, Mul(g, scaled, normed), 1);
        return Mul(g, inverse, Sub(g, scaled, Mul(g, normed, along)));
      },
    ],
    [scale, (gradient) => Reshape(g, ReduceSum(g, Mul(g, gradient, normed), 0), scale.shape)],
  ]);
}

/**
 * Softmax over the last axis of `[…, tokens, tokens]`, in which a row sees columns up to its own index.
 *
 * @param window - number of columns that a row sees, its own included; all by default
 */
export function causalSoftmax(tape: Tape, scores: Tensor, window?: number): Tensor {
  const g = tape.graph;
  const mask = causalMask(g, scores.shape.at(-1)!, window);
  const last = scores.shape.length - 1;
  const weights = Softmax(g, Add(g, scores.value, mask), -1);
  return tape.record(weights, scores.shape, [
    [
      scores,
      (gradient) => {
        const along = Unsqueeze(g, ReduceSum(g, Mul(g, gradient, weights), last), [last]);
        return Mul(g, weights, Sub(g, gradient, along));
      },
    ],
  ]);
}
