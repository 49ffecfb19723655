import { ropeTables } from "@readme-moe/model";
import { GraphSession, operators, type GraphTensor, type Value } from "@readme-moe/refactor/graphs";
import { afterAll, describe, expect, test } from "vitest";
import {
  add,
  geglu,
  timesNumber,
  shift,
  silu,
  swiglu,
  linear,
  linearWithLora,
  matmul,
  reshape,
  transpose,
} from "../../packages/refactor/src/autodiff/arithmetic.ts";
import {
  causalAttention,
  causalSoftmax,
  rmsNorm,
  rotary,
} from "../../packages/refactor/src/autodiff/layer-operations.ts";
import { crossEntropy, headLosses, type HeadLoss } from "../../packages/refactor/src/autodiff/losses.ts";
import { ANY_ROWS, countOf, gradientName, Tape, type Tensor } from "../../packages/refactor/src/autodiff/tape.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

// Fourth-order differences of float32 sums of a few dozen terms are far more accurate than this.
const BOUND = 2e-3;

interface Operation {
  /** Shapes of the parameters, whose gradients are checked. */
  readonly shapes: readonly (readonly number[])[];
  readonly apply: (tape: Tape, parameters: readonly Tensor[]) => Tensor;
}

const ATTENTION = { sequences: 2, tokens: 3, numHeads: 4, numKvHeads: 2, headSize: 4 } as const;

const OPERATIONS: Readonly<Record<string, Operation>> = {
  add: {
    shapes: [
      [3, 4],
      [3, 4],
    ],
    apply: (tape, [a, b]) => add(tape, a!, b!),
  },
  "add, repeated": {
    shapes: [
      [2, 3, 4],
      [3, 4],
    ],
    apply: (tape, [a, b]) => add(tape, a!, b!),
  },
  scale: { shapes: [[3, 4]], apply: (tape, [x]) => timesNumber(tape, x!, 0.7) },
  "used twice": { shapes: [[3, 4]], apply: (tape, [a]) => swiglu(tape, a!, silu(tape, a!)) },
  silu: { shapes: [[3, 5]], apply: (tape, [x]) => silu(tape, x!) },
  swiglu: {
    shapes: [
      [3, 5],
      [3, 5],
    ],
    apply: (tape, [gate, up]) => swiglu(tape, gate!, up!),
  },
  geglu: {
    shapes: [
      [3, 5],
      [3, 5],
    ],
    apply: (tape, [gate, up]) => geglu(tape, gate!, up!),
  },
  shift: { shapes: [[3, 4]], apply: (tape, [x]) => shift(tape, x!, 0.7) },
  linearWithLora: {
    shapes: [[5, 3], [4, 3], [2, 3], [4, 2], [4]],
    apply: (tape, [x, w, left, right, bias]) =>
      linearWithLora(tape, x!, { weight: w!, bias, left: left!, right: right! }),
  },
  "causalAttention, grouped heads": {
    shapes: [
      [6, 16],
      [6, 8],
      [6, 8],
    ],
    apply: (tape, [query, key, value]) => causalAttention(tape, { query: query!, key: key!, value: value! }, ATTENTION),
  },
  "causalAttention, a window": {
    shapes: [
      [6, 16],
      [6, 8],
      [6, 8],
    ],
    apply: (tape, [query, key, value]) =>
      causalAttention(tape, { query: query!, key: key!, value: value! }, { ...ATTENTION, window: 2, scale: 0.7 }),
  },
  "headLosses, all rows together": { shapes: [[4, 3]], apply: (tape, [x]) => lossOfHead(tape, x!, 4) },
  "headLosses, some rows at a time": { shapes: [[4, 3]], apply: (tape, [x]) => lossOfHead(tape, x!, 3) },
  "headLosses with a teacher": {
    shapes: [[4, 3]],
    apply: (tape, [x]) => {
      const taught = Float32Array.from({ length: 12 }, (_, i) => Math.sin(i * i));
      const teacherHead = Float32Array.from({ length: 15 }, (_, i) => Math.cos(i + i * i));
      return lossOfHead(tape, x!, 3, {
        taught: constant(tape, "taught", [4, 3], taught),
        teacherHead: constant(tape, "teacher_head", [5, 3], teacherHead),
      });
    },
  },
  linear: { shapes: [[5, 3], [4, 3], [4]], apply: (tape, [x, w, bias]) => linear(tape, x!, w!, bias) },
  matmul: {
    shapes: [
      [2, 3, 4],
      [2, 4, 5],
    ],
    apply: (tape, [a, b]) => matmul(tape, a!, b!, { alpha: 0.7 }),
  },
  matmulTransposed: {
    shapes: [
      [2, 3, 4],
      [2, 5, 4],
    ],
    apply: (tape, [a, b]) => matmul(tape, a!, b!, { alpha: 0.7, transB: true }),
  },
  reshape: { shapes: [[3, 4]], apply: (tape, [x]) => reshape(tape, x!, [2, 6]) },
  transpose: { shapes: [[2, 3, 4]], apply: (tape, [x]) => transpose(tape, x!, [2, 0, 1]) },
  rmsNorm: { shapes: [[4, 6], [6]], apply: (tape, [x, weight]) => rmsNorm(tape, x!, weight!, { epsilon: 1e-6 }) },
  "rmsNorm with an offset": {
    shapes: [[4, 6], [6]],
    apply: (tape, [x, weight]) => rmsNorm(tape, x!, weight!, { epsilon: 1e-6, offset: 1 }),
  },
  causalSoftmax: { shapes: [[2, 4, 4]], apply: (tape, [scores]) => causalSoftmax(tape, scores!) },
  rotary: {
    shapes: [[2, 3, 8]],
    apply: (tape, [x]) => {
      const { cos, sin } = ropeTables({ type: "default", theta: 100 }, 4, 0, 3);
      const tables = { cos: constant(tape, "cos", [3, 2], cos), sin: constant(tape, "sin", [3, 2], sin) };
      return rotary(tape, x!, { ...tables, positions: constant(tape, "positions", [2, 3], ints([0, 1, 2, 0, 1, 2])) });
    },
  },
  crossEntropy: {
    shapes: [[4, 3]],
    apply: (tape, [logits]) => {
      const targets = Float32Array.of(0.2, 0.5, 0.3, 1, 0, 0, 0, 0, 0, 0.1, 0.2, 0.1);
      return crossEntropy(tape, logits!, constant(tape, "targets", [4, 3], targets));
    },
  },
};

/** Sums the losses of rows with a head of five tokens. */
function lossOfHead(
  tape: Tape,
  x: Tensor,
  rowsTogether: number,
  teacher: Pick<HeadLoss, "taught" | "teacherHead"> = {},
): Tensor {
  const head = Float32Array.from({ length: 15 }, (_, i) => Math.cos(i * i));
  const inputs = { x, head: constant(tape, "head", [5, 3], head), ids: constant(tape, "ids", [4], ints([4, 0, 4, 2])) };
  const weights = constant(tape, "weights", [4, 1], Float32Array.of(0.5, 0, 1, 0.25));
  return headLosses(tape, inputs, rowsTogether).loss({ weights, labelShare: 0.3, teacherShare: 0.7, ...teacher }).loss;
}

const sessions: GraphSession[] = [];
afterAll(async () => {
  for (const session of sessions) await session.dispose();
});

describe("gradients agree with differences", () => {
  test.each(Object.entries(OPERATIONS))("%s", async (_, operation) => {
    for (const seed of [1, 2, 3]) expect(await gradientError(operation, seed)).toBeLessThan(BOUND);
  });

  test.each(Object.entries(OPERATIONS))("a wrong sign in any rule of %s is seen", async (_, operation) => {
    for (let input = 0; input < operation.shapes.length; input++) {
      // A direction may lie across one input's gradient: all three do not.
      const errors = [1, 2, 3].map((seed) => gradientError(operation, seed, input));
      expect(Math.max(...(await Promise.all(errors)))).toBeGreaterThan(10 * BOUND);
    }
  });
});

test("softmax of a row does not see later columns, however large their scores", async () => {
  const tape = new Tape("softmax");
  const scores = tape.data("scores", "float32", [3, 3]);
  const weights = causalSoftmax(tape, scores);
  tape.graph.output("weights", weights.value, "float32", [3, 3]);
  const session = await open(tape);
  const outputs = await session.run({ scores: { data: Float32Array.of(0, 99, 99, 0, 0, 99, 0, 0, 0), dims: [3, 3] } });
  const expected = [1, 0, 0, 0.5, 0.5, 0, 1 / 3, 1 / 3, 1 / 3];
  const found = outputs["weights"]!.data as Float32Array;
  found.forEach((weight, i) => expect(weight).toBeCloseTo(expected[i]!, 6));
});

test("a window hides what is too far back", async () => {
  const tape = new Tape("softmax");
  const weights = causalSoftmax(tape, tape.data("scores", "float32", [3, 3]), 2);
  tape.graph.output("weights", weights.value, "float32", [3, 3]);
  const session = await open(tape);
  const outputs = await session.run({ scores: { data: new Float32Array(9), dims: [3, 3] } });
  expect([...(outputs["weights"]!.data as Float32Array)]).toEqual([1, 0, 0, 0.5, 0.5, 0, 0, 0.5, 0.5]);
});

test("a pullback has no nodes that its gradients do not need", () => {
  const tape = new Tape("pullback");
  const x = tape.parameter("x", [ANY_ROWS, 3]);
  const inner = silu(tape, linear(tape, x, tape.data("w", "float32", [4, 3])));
  const output = linear(tape, inner, tape.data("v", "float32", [5, 4]));
  const graph = tape.pullback(output, tape.data("seed", "float32", [ANY_ROWS, 5]).value);
  // One product of the forward pass, and two of the backward pass.
  expect(graph.nodes.filter(({ type }) => type === "Gemm")).toHaveLength(3);
  expect(graph.nodes.some(({ type }) => type === "QuickGelu")).toBe(false);
});

test("operations that depend on sizes reject any number of rows", () => {
  expect(() => countOf([ANY_ROWS, 3])).toThrow(/any number of rows/);
});

test("a parameter that the loss does not depend on is rejected by name", () => {
  const tape = new Tape("unused");
  tape.parameter("idle", [2]);
  const loss = weightedSum(
    tape,
    tape.parameter("used", [2]),
    constant(tape, "weights", [2, 1], Float32Array.of(1, 1)),
    1,
  );
  expect(() => tape.build(loss)).toThrow(/`idle`/);
});

/**
 * Compares the derivative along a random direction by the graph's gradients with that by differences.
 *
 * @param flipped - parameter whose gradient gets a wrong sign
 * @returns the relative error
 */
async function gradientError({ shapes, apply }: Operation, seed: number, flipped?: number): Promise<number> {
  const random = seededRandom(seed);
  const normals = (count: number): Float32Array => Float32Array.from({ length: count }, () => randomNormal(random));
  const tape = flipped === undefined ? new Tape("check") : new FlippingTape("check", `p${flipped}`);
  const parameters = shapes.map((shape, index) => tape.parameter(`p${index}`, shape));
  const output = apply(tape, parameters);
  const count = countOf(output.shape);
  const shares = constant(tape, "shares", [count, 1], normals(count));
  const session = await open(tape, weightedSum(tape, reshape(tape, output, [count]), shares, 1 / count));

  const values = shapes.map((shape) => normals(countOf(shape)));
  const directions = shapes.map((shape) => normals(countOf(shape)));
  const run = async (step: number): Promise<Readonly<Record<string, GraphTensor>>> => {
    const feeds: Record<string, GraphTensor> = {};
    shapes.forEach((dims, index) => {
      const data = values[index]!.map((value, i) => value + step * directions[index]![i]!);
      feeds[`p${index}`] = { data, dims };
    });
    return session.run(feeds);
  };
  const lossAt = async (step: number): Promise<number> => Number((await run(step))["loss"]!.data[0]);
  const h = 0.03;
  const near = (await lossAt(h)) - (await lossAt(-h));
  const far = (await lossAt(2 * h)) - (await lossAt(-2 * h));
  const expected = (8 * near - far) / (12 * h);

  const outputs = await run(0);
  let [found, size] = [0, 0];
  directions.forEach((direction, index) => {
    const gradient = outputs[gradientName(`p${index}`)]!.data as Float32Array;
    direction.forEach((value, i) => {
      found += value * gradient[i]!;
      size += (value * gradient[i]!) ** 2;
    });
  });
  return Math.abs(found - expected) / Math.sqrt(size);
}

/** Flips the sign of one input's gradients. */
class FlippingTape extends Tape {
  readonly #name: string;

  constructor(name: string, input: string) {
    super(name);
    this.#name = input;
  }

  override record(...[value, shape, inputs]: Parameters<Tape["record"]>): Tensor {
    const flip = (rule: (gradient: Value) => Value) => (gradient: Value) => operators.Neg(this.graph, rule(gradient));
    const flipped = inputs.map(([input, rule]) => [input, input.value === this.#name ? flip(rule) : rule] as const);
    return super.record(value, shape, flipped);
  }
}

/** Sums `factor · weight · x` over rows, `[1]`; `x` is `[rows]`, `weights` is `[rows, 1]` and has no gradient. */
function weightedSum(tape: Tape, x: Tensor, weights: Tensor, factor: number): Tensor {
  const { Mul, ReduceSum, Reshape } = operators;
  const g = tape.graph;
  const shares = Mul(g, Reshape(g, weights.value, [-1]), g.floats([factor]));
  const sum = Reshape(g, ReduceSum(g, Mul(g, x.value, shares), 0), [1]);
  return tape.record(sum, [1], [[x, (gradient) => Mul(g, shares, gradient)]]);
}

async function open(tape: Tape, loss?: Tensor): Promise<GraphSession> {
  const graph = loss ? tape.build(loss) : tape.graph.build();
  const session = await GraphSession.open(graph, { threads: 1 });
  sessions.push(session);
  return session;
}

function constant(tape: Tape, name: string, shape: readonly number[], data: Float32Array | BigInt64Array): Tensor {
  return tape.constant(name, data instanceof Float32Array ? "float32" : "int64", shape, data);
}

function ints(values: readonly number[]): BigInt64Array {
  return BigInt64Array.from(values, BigInt);
}
