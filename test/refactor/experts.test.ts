// Compares the selection and fitting of neurons with plain loops, on made-up statistics.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  eliminate,
  errorCurve,
  fitPart,
  relativeErrorOf,
  type PartFit,
} from "../../packages/refactor/src/experts/fit-part.ts";
import {
  densePart,
  type Part,
  contributions,
  paperLayer,
  paperNeurons,
  topNeurons,
} from "../../packages/refactor/src/experts/select.ts";
import {
  addMoments,
  emptyMoments,
  fitProblem,
  pooled,
  type FitProblem,
  type Moments,
} from "../../packages/refactor/src/experts/moments.ts";
import { matrix, Products } from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { plainSolve } from "../oracles/plain-solve.ts";
import { fitLayer } from "../support/fit-layer.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

const NEURONS = 10;
const HIDDEN = 4;

let products: Products;
beforeAll(async () => {
  products = await Products.open(1);
});
afterAll(() => products.dispose());

interface Sample {
  readonly h: number[][]; // [tokens][NEURONS]
  readonly t: number[][]; // [tokens][HIDDEN]
  readonly w: number[]; // [tokens]
}

/** Makes tokens with correlated neurons, whose targets are the dense layer's output plus noise. */
function sample(seed: number, tokens = 60): Sample {
  const random = seededRandom(seed);
  const mix = Array.from({ length: NEURONS }, () => Array.from({ length: NEURONS }, () => randomNormal(random) / 2));
  const h = Array.from({ length: tokens }, () => {
    const free = Array.from({ length: NEURONS }, () => randomNormal(random) + 0.3);
    return mix.map((row, j) => (free[j] as number) + row.reduce((sum, m, k) => sum + m * (free[k] as number), 0));
  });
  const t = h.map((row) => denseOf(row).map((value) => value + 0.1 * randomNormal(random) + 0.2));
  return { h, t, w: h.map(() => 0.5 + random()) };
}

const DOWN = matrix(
  HIDDEN,
  NEURONS,
  Array.from({ length: HIDDEN * NEURONS }, (_, i) => Math.sin(i * 1.7)),
);
const DENSE = { weight: DOWN, bias: undefined };

function fitOf(problem: FitProblem, ridge: number): PartFit {
  return { problem, dense: DOWN, ridge, products };
}

function denseOf(row: readonly number[]): number[] {
  return Array.from({ length: HIDDEN }, (_, j) =>
    row.reduce((sum, h, i) => sum + h * (DOWN.data[j * NEURONS + i] as number), 0),
  );
}

function momentsOf({ h, t, w }: Sample): Moments {
  const moments = emptyMoments(NEURONS, HIDDEN);
  h.forEach((row, token) => {
    const weight = w[token] as number;
    const target = t[token] as number[];
    addMoments(moments, {
      count: weight,
      gram: Float32Array.from(row.flatMap((a, i) => row.slice(i).map((b) => weight * a * b))),
      cross: Float32Array.from(row.flatMap((a) => target.map((b) => weight * a * b))),
      neuronSums: Float32Array.from(row, (a) => weight * a),
      targetSums: Float32Array.from(target, (b) => weight * b),
      targetSquares: target.reduce((sum, b) => sum + weight * b * b, 0),
    });
  });
  return moments;
}

/** Computes the weighted mean squared distance of a part's output from the targets. */
function plainError({ h, t, w }: Sample, { neurons, down, bias }: Part): number {
  let [sum, all] = [0, 0];
  h.forEach((row, token) => {
    for (let j = 0; j < HIDDEN; j++) {
      let output = bias[j] as number;
      neurons.forEach((neuron, i) => (output += (down[j * neurons.length + i] as number) * (row[neuron] as number)));
      sum += (w[token] as number) * (output - (t[token]?.[j] as number)) ** 2;
    }
    all += w[token] as number;
  });
  return sum / all;
}

/** Runs a plain ridge regression with a bias: `[neurons][HIDDEN]` and the bias. */
function plainFit(
  { h, t, w }: Sample,
  neurons: readonly number[],
  ridge: number,
): { down: number[][]; bias: number[] } {
  const all = w.reduce((sum, weight) => sum + weight, 0);
  const mean = (rows: readonly (readonly number[])[], j: number): number =>
    rows.reduce((sum, row, token) => sum + (w[token] as number) * (row[j] as number), 0) / all;
  const covariance = (
    a: readonly (readonly number[])[],
    i: number,
    b: readonly (readonly number[])[],
    j: number,
  ): number =>
    a.reduce(
      (sum, row, token) =>
        sum + (w[token] as number) * ((row[i] as number) - mean(a, i)) * ((b[token]?.[j] as number) - mean(b, j)),
      0,
    ) / all;
  const trace = Array.from({ length: NEURONS }, (_, i) => covariance(h, i, h, i)).reduce((sum, v) => sum + v, 0);
  const lambda = (ridge * trace) / NEURONS;
  const gram = neurons.map((i) => neurons.map((j) => covariance(h, i, h, j) + (i === j ? lambda : 0)));
  const side = neurons.map((i) =>
    Array.from({ length: HIDDEN }, (_, j) => covariance(h, i, t, j) + lambda * (DOWN.data[j * NEURONS + i] as number)),
  );
  const down = plainSolve(gram, side);
  const bias = Array.from({ length: HIDDEN }, (_, j) =>
    neurons.reduce((sum, neuron, i) => sum - mean(h, neuron) * (down[i]?.[j] as number), mean(t, j)),
  );
  return { down, bias };
}

test("fits like a plain ridge regression", async () => {
  const data = sample(1);
  const neurons = [0, 2, 3, 7, 9];
  const own = momentsOf(data);
  const part = await fitPart(fitOf(fitProblem(own, own, 1), 1e-2), Int32Array.from(neurons));
  const { down, bias } = plainFit(data, neurons, 1e-2);
  neurons.forEach((_, i) => {
    for (let j = 0; j < HIDDEN; j++) expect(part.down[j * 5 + i]).toBeCloseTo(down[i]?.[j] as number, 4);
  });
  bias.forEach((value, j) => expect(part.bias[j]).toBeCloseTo(value, 4));
  const problem = fitProblem(own, own, 1);
  expect(part.relativeError).toBeCloseTo(plainError(data, part) / problem.wholeVariance, 4);
});

test("has no larger error than the dense weights with the best bias", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const own = momentsOf(sample(seed));
    const all = pooled([own, momentsOf(sample(seed + 100))]);
    const problem = fitProblem(own, all, 0.7);
    const neurons = topNeurons(contributions(problem, DOWN), 1 + (seed % NEURONS));
    const fitted = await fitPart(fitOf(problem, 1e-3), neurons);
    expect(fitted.relativeError).toBeLessThanOrEqual(
      (await relativeErrorOf(problem, densePart(neurons, DENSE), products)) + 1e-6,
    );
  }
});

test("returns the dense weights for all neurons and the dense output as target", async () => {
  const data = sample(3);
  const exact = momentsOf({ ...data, t: data.h.map(denseOf) });
  const neurons = Int32Array.from({ length: NEURONS }, (_, i) => i);
  const part = await fitPart(fitOf(fitProblem(exact, exact, 1), 1e-3), neurons);
  part.down.forEach((value, i) => expect(value).toBeCloseTo(DOWN.data[i] as number, 3));
  part.bias.forEach((value) => expect(value).toBeCloseTo(0, 3));
});

describe("backward elimination", () => {
  const everything = Int32Array.from({ length: NEURONS }, (_, i) => i);

  test.each([1, 2, 3, 4, 5])(
    "keeps the neurons that plain elimination keeps, one at a time (seed %i)",
    async (seed) => {
      const data = sample(seed);
      const own = momentsOf(data);
      const part = await eliminate(fitOf(fitProblem(own, own, 1), 1e-2), everything, 4);
      let left = Array.from(everything);
      while (left.length > 4) {
        const errors = left.map((neuron) => {
          const rest = left.filter((other) => other !== neuron);
          return penalised(data, rest, 1e-2);
        });
        left = left.filter((_, i) => i !== errors.indexOf(Math.min(...errors)));
      }
      expect(Array.from(part.neurons)).toEqual(left);
      const { down } = plainFit(data, left, 1e-2);
      left.forEach((_, i) => {
        for (let j = 0; j < HIDDEN; j++) expect(part.down[j * 4 + i]).toBeCloseTo(down[i]?.[j] as number, 3);
      });
    },
  );

  test.each([1, 2, 3])("gives the least error of every size in one run (seed %i)", async (seed) => {
    const drawn = sample(seed);
    const data = { ...drawn, t: drawn.h.map(denseOf) };
    const own = momentsOf(data);
    const { gram } = fitProblem(own, own, 1);
    const sizes = [10, 9, 8, 7, 6, 5, 4, 3];
    const curve = await errorCurve({ gram, dense: DOWN, ridge: 1e-2, products }, sizes);
    expect(curve[0]).toBe(0);
    let left = Array.from(everything);
    for (const error of curve.subarray(1)) {
      const errors = left.map((neuron) =>
        penalised(
          data,
          left.filter((other) => other !== neuron),
          1e-2,
        ),
      );
      const least = Math.min(...errors);
      left = left.filter((_, i) => i !== errors.indexOf(least));
      expect(Math.abs(error / least - 1)).toBeLessThan(1e-3);
    }
  });

  test("has mostly a smaller error than the neurons with the largest contributions", async () => {
    let [better, worse] = [0, 0];
    for (let seed = 1; seed <= 30; seed++) {
      const own = momentsOf(sample(seed));
      const problem = fitProblem(own, own, 1);
      const kept = await eliminate(fitOf(problem, 1e-3), everything, 5);
      const top = await fitPart(fitOf(problem, 1e-3), topNeurons(contributions(problem, DOWN), 5));
      if (kept.relativeError < top.relativeError - 1e-9) better++;
      if (kept.relativeError > top.relativeError + 1e-9) worse++;
    }
    expect(better).toBeGreaterThan(3 * worse);
  });

  /** Computes the objective of an elimination: the error, and the ridge towards the dense weights of all neurons. */
  function penalised(data: Sample, neurons: readonly number[], ridge: number): number {
    const own = momentsOf(data);
    const { gram } = fitProblem(own, own, 1);
    const trace = Array.from({ length: NEURONS }, (_, i) => gram.data[i * NEURONS + i] as number).reduce(
      (a, b) => a + b,
    );
    const lambda = (ridge * trace) / NEURONS;
    const { down, bias } = plainFit(data, neurons, ridge);
    const flat = Float32Array.from(
      { length: HIDDEN * neurons.length },
      (_, at) => down[at % neurons.length]?.[Math.floor(at / neurons.length)] as number,
    );
    let sum = plainError(data, { neurons: Int32Array.from(neurons), down: flat, bias: Float32Array.from(bias) });
    for (let neuron = 0; neuron < NEURONS; neuron++) {
      const place = neurons.indexOf(neuron);
      for (let j = 0; j < HIDDEN; j++) {
        const weight = place < 0 ? 0 : (down[place]?.[j] as number);
        sum += lambda * (weight - (DOWN.data[j * NEURONS + neuron] as number)) ** 2;
      }
    }
    return sum;
  }
});

test("a shared part and its experts have the errors that the moments predict", async () => {
  const domains = [sample(11), sample(12)];
  const moments = domains.map(momentsOf);
  const settings = {
    usedSize: 7,
    sharedSize: 4,
    selection: "elimination",
    refits: true,
    ownShare: 1,
    ridge: 1e-3,
  } as const;
  const { shared, experts, relativeErrors } = await fitLayer(moments, { dense: DENSE, settings, products });
  expect(shared?.neurons).toHaveLength(4);
  domains.forEach((data, domain) => {
    const expert = experts[domain] as Part;
    const neurons = Int32Array.from([...(shared?.neurons ?? []), ...expert.neurons]);
    expect(new Set(neurons).size).toBe(7);
    const width = neurons.length;
    const down = new Float32Array(HIDDEN * width);
    for (let j = 0; j < HIDDEN; j++) {
      for (let i = 0; i < 4; i++) down[j * width + i] = shared?.down[j * 4 + i] as number;
      for (let i = 0; i < 3; i++) down[j * width + 4 + i] = expert.down[j * 3 + i] as number;
    }
    const bias = expert.bias.map((value, j) => value + (shared?.bias[j] as number));
    const { wholeVariance } = fitProblem(moments[domain] as Moments, pooled(moments), 1);
    expect(relativeErrors[domain]).toBeCloseTo(plainError(data, { neurons, down, bias }) / wholeVariance, 4);
  });
});

describe("the paper's experts", () => {
  const magnitudes = [
    [9, 8, 7, 6, 1, 1, 1, 1, 1, 0],
    [9, 1, 8, 1, 7, 6, 1, 1, 1, 0],
    [1, 1, 9, 1, 1, 8, 9, 7, 6, 8.5],
  ];
  const biased = { weight: DOWN, bias: Float32Array.from([1, 2, 3, 4]) };

  test("share the neurons that all domains select, and equal the dense layer with the others masked", () => {
    const { shared, experts } = paperLayer(magnitudes, 4, biased);
    expect(shared?.neurons).toEqual(Int32Array.from([2]));
    expect(experts.map(({ neurons }) => Array.from(neurons))).toEqual([
      [0, 1, 3],
      [0, 4, 5],
      [5, 6, 9],
    ]);
    const random = seededRandom(31);
    const h = Array.from({ length: NEURONS }, () => randomNormal(random));
    for (const expert of experts) {
      const parts = [shared as Part, expert];
      const kept = new Set(parts.flatMap(({ neurons }) => Array.from(neurons)));
      const masked = denseOf(h.map((value, neuron) => (kept.has(neuron) ? value : 0)));
      masked.forEach((value, j) => {
        const sum = parts.reduce((all, { neurons, down, bias }) => {
          const own = neurons.reduce(
            (s, neuron, i) => s + (down[j * neurons.length + i] as number) * (h[neuron] as number),
            0,
          );
          return all + own + (bias[j] as number);
        }, 0);
        expect(sum).toBeCloseTo(value + (biased.bias[j] as number), 5);
      });
    }
  });

  test("have one neuron less with the official count", () => {
    const { shared, experts } = paperLayer(magnitudes, 4, DENSE, true);
    expect(shared?.neurons).toEqual(Int32Array.from([2]));
    for (const { neurons } of experts) expect(neurons).toHaveLength(2);
  });

  test("share nothing without common neurons, and keep one neuron each when all are common", () => {
    expect(paperLayer([magnitudes[0]!, magnitudes[0]!.toReversed()], 4, DENSE).shared).toBeUndefined();
    expect(paperLayer([magnitudes[0]!], 4, DENSE).shared).toBeUndefined();
    const same = paperLayer([magnitudes[0]!, magnitudes[0]!], 4, DENSE);
    expect(Array.from(same.shared?.neurons ?? [])).toEqual([0, 1, 2]);
    expect(same.experts.map(({ neurons }) => Array.from(neurons))).toEqual([[3], [3]]);
  });
});

test("selects the largest scores, the lower index of equal ones", () => {
  expect(Array.from(topNeurons([3, 1, 3, 2, 3], 2))).toEqual([0, 2]);
  expect(Array.from(topNeurons([0, 0, 0], 3))).toEqual([0, 1, 2]);
  expect(Array.from(paperNeurons([0.1, 0.9, 0.5, 0.7], 3))).toEqual([1, 2, 3]);
  expect(Array.from(paperNeurons([0.1, 0.9, 0.5, 0.7], 3, true))).toEqual([1, 3]);
  const own = momentsOf(sample(8));
  const scores = contributions(fitProblem(own, own, 1), DOWN);
  const { h, w } = sample(8);
  const all = w.reduce((sum, weight) => sum + weight, 0);
  scores.forEach((score, j) => {
    const square = h.reduce((sum, row, token) => sum + (w[token] as number) * (row[j] as number) ** 2, 0) / all;
    let norm = 0;
    for (let i = 0; i < HIDDEN; i++) norm += (DOWN.data[i * NEURONS + j] as number) ** 2;
    expect(score).toBeCloseTo(Math.sqrt(square * norm), 4);
  });
});
