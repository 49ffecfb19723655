import * as operators from "../graphs/operators.ts";
import type { GraphBuilder, Value } from "../graphs/graph-builder.ts";
import { countOf, type Tape, type Tensor } from "./tape.ts";

const { Add, Mul, QuickGelu, ReduceSum, Reshape, Sigmoid, Sub, Tanh } = operators;

/** `a + b`, where `b` has the shape of `a` or of its last axes. */
export function add(tape: Tape, a: Tensor, b: Tensor): Tensor {
  const g = tape.graph;
  return tape.record(Add(g, a.value, b.value), a.shape, [
    [a, (gradient) => gradient],
    [b, (gradient) => sumToShape(g, gradient, a, b)],
  ]);
}

/** `x · factor` */
export function scale(tape: Tape, x: Tensor, factor: number): Tensor {
  const g = tape.graph;
  const multiply = (value: Value): Value => Mul(g, value, g.floats([factor]));
  return tape.record(multiply(x.value), x.shape, [[x, multiply]]);
}

/** `x + offset`, element by element */
export function shift(tape: Tape, x: Tensor, offset: number): Tensor {
  const g = tape.graph;
  return tape.record(Add(g, x.value, g.floats([offset])), x.shape, [[x, (gradient) => gradient]]);
}

/** `x · sigmoid(x)` */
export function silu(tape: Tape, x: Tensor): Tensor {
  const g = tape.graph;
  const derivative = (): Value => {
    const gate = Sigmoid(g, x.value);
    const rest = Sub(g, g.floats([1]), gate);
    return Mul(g, gate, Add(g, g.floats([1]), Mul(g, x.value, rest)));
  };
  return tape.record(QuickGelu(g, x.value, 1), x.shape, [[x, (gradient) => Mul(g, gradient, derivative())]]);
}

/** `silu(gate) · up`, element by element. */
export function swiglu(tape: Tape, gate: Tensor, up: Tensor): Tensor {
  const g = tape.graph;
  const sigmoid = Sigmoid(g, gate.value);
  const silued = Mul(g, gate.value, sigmoid);
  return tape.record(Mul(g, silued, up.value), gate.shape, [
    [
      gate,
      (gradient) => {
        const slope = Add(g, sigmoid, Mul(g, silued, Sub(g, g.floats([1]), sigmoid)));
        return Mul(g, Mul(g, gradient, up.value), slope);
      },
    ],
    [up, (gradient) => Mul(g, gradient, silued)],
  ]);
}

// GELU's approximation: tanh(√(2/π) · (x + 0.044715 · x³)).
const GELU_SCALE = Math.sqrt(2 / Math.PI);
const GELU_CUBIC = 0.044715;

/** `gelu(gate) · up`, element by element, with GELU's approximation by tanh. */
export function geglu(tape: Tape, gate: Tensor, up: Tensor): Tensor {
  const g = tape.graph;
  const [x, one, half] = [gate.value, g.floats([1]), g.floats([0.5])];
  const square = Mul(g, x, x);
  const inner = Mul(g, Mul(g, x, g.floats([GELU_SCALE])), Add(g, one, Mul(g, square, g.floats([GELU_CUBIC]))));
  const turned = Tanh(g, inner);
  const share = Mul(g, half, Add(g, one, turned)); // gelu(x) / x
  const activated = Mul(g, x, share);
  return tape.record(Mul(g, activated, up.value), gate.shape, [
    [
      gate,
      (gradient) => {
        const innerSlope = Mul(g, g.floats([GELU_SCALE]), Add(g, one, Mul(g, square, g.floats([3 * GELU_CUBIC]))));
        const turnedSlope = Mul(g, Sub(g, one, Mul(g, turned, turned)), innerSlope);
        const slope = Add(g, share, Mul(g, Mul(g, half, x), turnedSlope));
        return Mul(g, Mul(g, gradient, up.value), slope);
      },
    ],
    [up, (gradient) => Mul(g, gradient, activated)],
  ]);
}

/** Sums over the leading axes of `a` that `b` was repeated over. */
function sumToShape(g: GraphBuilder, gradient: Value, a: Tensor, b: Tensor): Value {
  if (a.shape.length === b.shape.length) return gradient;
  const rows = Reshape(g, gradient, [-1, countOf(b.shape)]);
  return Reshape(g, ReduceSum(g, rows, 0), b.shape);
}
