// Compares the statistics, experts and errors of a layer's graphs with plain loops.

import { openModel, type Model } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { densePart, type LayerExperts, type Part } from "../../packages/refactor/src/experts/select.ts";
import { layerSource, readDense } from "../../packages/refactor/src/layers/layer-graphs.ts";
import {
  goalOfBatch,
  runDense,
  runExperts,
  runMoments,
  runOverlaps,
  runWeightedGram,
  type LayerPass,
} from "../../packages/refactor/src/layers/run-layer.ts";
import { TokenStream, type Batch } from "../../packages/refactor/src/layers/token-stream.ts";
import { ownErrors } from "../../packages/refactor/src/tasks/task-runner.ts";
import { heldBackBatches } from "../../packages/refactor/src/tasks/task.ts";
import { plainLayer } from "../oracles/plain-decoder.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const [SHARE, LENGTH, SIZE] = [0.5, 9, 160];

let model: Model;
let stream: TokenStream;
beforeAll(async () => {
  const folder = `${await persistentFolder()}/dense`;
  await writeTinyReadMe(folder, {
    numExperts: 1,
    expertSizes: [SIZE, SIZE],
    sharedSizes: [0, 0],
    hasRouter: false,
    hasBias: true,
    config: { intermediate_size: SIZE },
  });
  model = await openModel(folder);
  const random = seededRandom(3);
  const text = (): Int32Array => Int32Array.from({ length: LENGTH }, () => randomInteger(random, 96));
  // Batches of two sequences, and one of a single sequence at the end of each domain.
  stream = new TokenStream(model.config, [[text(), text(), text()], [text()]], 2 * LENGTH);
});
afterAll(() => model.close());

function pass(): LayerPass {
  return { source: layerSource(model, 0), stream, options: {} };
}

function isOfFirstDomain({ domain }: Batch): boolean {
  return domain === 0;
}

function alternatingExperts({ numSequences }: Batch): readonly number[] {
  return Array.from({ length: numSequences * LENGTH }, (_, token) => token % 2);
}

interface Plain {
  readonly attended: Float64Array[];
  readonly neurons: Float64Array[];
  readonly next: Float64Array[];
}

async function plainStream(hidden: Float32Array): Promise<Plain> {
  const width = stream.hiddenSize;
  const all: Plain = { attended: [], neurons: [], next: [] };
  for (let first = 0; first < stream.numTokens; first += LENGTH) {
    const rows = Array.from({ length: LENGTH }, (_, i) =>
      Float64Array.from(hidden.subarray((first + i) * width, (first + i + 1) * width)),
    );
    const one = await plainLayer(model, 0, rows);
    for (const key of ["attended", "neurons", "next"] as const) all[key].push(...one[key]);
  }
  return all;
}

function flat(rows: readonly Float64Array[]): number[] {
  return rows.flatMap((row) => Array.from(row));
}

/** Makes the dense stream before layer 0, and a second stream with noise. */
async function streams(): Promise<{ dense: Float32Array; other: Float32Array }> {
  const dense = await stream.embed(model);
  const random = seededRandom(4);
  return { dense, other: dense.map((value) => value + 0.3 * (random() - 0.5)) };
}

test("cuts batches at the borders of domains", () => {
  expect(stream.batches).toEqual([
    { domain: 0, firstSequence: 0, numSequences: 2 },
    { domain: 0, firstSequence: 2, numSequences: 1 },
    { domain: 1, firstSequence: 3, numSequences: 1 },
  ]);
});

test("the dense pass gives the next states, goals, weights and magnitudes", async () => {
  const { dense } = await streams();
  const plain = await plainStream(dense);
  const { goal, magnitudes } = await runDense(pass(), dense, SHARE);
  expect(largestDifference(dense, flat(plain.next))).toBeLessThan(1e-4);
  const goals = plain.next.map((row, token) =>
    row.map((value, i) => value - (1 - SHARE) * (plain.attended[token]?.[i] as number)),
  );
  expect(largestDifference(goal.rows, flat(goals))).toBeLessThan(1e-4);
  const weights = plain.next.map((row) => row.length / row.reduce((sum, value) => sum + value * value, 0));
  expect(largestDifference(goal.weights, weights)).toBeLessThan(1e-4);
  for (const [domain, sums] of magnitudes.entries()) {
    const own = plain.neurons.filter((_, token) => stream.domains[Math.floor(token / LENGTH)] === domain);
    const expected = Array.from({ length: SIZE }, (_, j) =>
      own.reduce((sum, row) => sum + Math.abs(row[j] as number), 0),
    );
    expect(largestDifference(sums, expected)).toBeLessThan(1e-3);
  }
});

test("the weighted pass sums up neurons by the weight of their tokens", async () => {
  const { dense } = await streams();
  const plain = await plainStream(dense);
  const { count, gram, neuronSums } = await runWeightedGram(pass(), dense);
  expect(largestDifference(dense, flat(plain.next))).toBeLessThan(1e-4);
  const weights = plain.next.map((row) => row.length / row.reduce((sum, value) => sum + value * value, 0));
  const sumOf = (value: (h: Float64Array) => number): number =>
    plain.neurons.reduce((sum, own, token) => sum + weights[token]! * value(own), 0);
  const every = Array.from({ length: SIZE }, (_, neuron) => neuron);
  expect(Math.abs(count / sumOf(() => 1) - 1)).toBeLessThan(1e-5);
  const sums = every.map((i) => sumOf((h) => h[i]!));
  expect(largestDifference(neuronSums, sums)).toBeLessThan(1e-3);
  const pairs = every.flatMap((i) => every.slice(i).map((j) => sumOf((h) => h[i]! * h[j]!)));
  expect(largestDifference(gram, pairs)).toBeLessThan(1e-3);
});

test("moments are sums over the tokens of a domain", async () => {
  const { dense, other } = await streams();
  const { goal } = await runDense(pass(), dense, SHARE);
  const plain = await plainStream(other);
  const moments = await runMoments(pass(), other, { goal: goal.rows, share: SHARE });
  const width = stream.hiddenSize;
  for (const [domain, own] of moments.entries()) {
    const [gram, cross] = [new Float64Array(SIZE * SIZE), new Float64Array(SIZE * width)];
    const [neurons, targets] = [new Float64Array(SIZE), new Float64Array(width)];
    let [count, squares] = [0, 0];
    plain.neurons.forEach((h, token) => {
      if (stream.domains[Math.floor(token / LENGTH)] !== domain) return;
      const weight = 1;
      const t = Array.from(
        { length: width },
        (_, i) => (goal.rows[token * width + i] as number) - SHARE * (plain.attended[token]?.[i] as number),
      );
      count += weight;
      squares += weight * t.reduce((sum, value) => sum + value * value, 0);
      t.forEach((value, i) => (targets[i] = (targets[i] as number) + weight * value));
      h.forEach((value, j) => {
        neurons[j] = (neurons[j] as number) + weight * value;
        for (let k = 0; k < SIZE; k++)
          gram[j * SIZE + k] = (gram[j * SIZE + k] as number) + weight * value * (h[k] as number);
        for (let i = 0; i < width; i++)
          cross[j * width + i] = (cross[j * width + i] as number) + weight * value * (t[i] as number);
      });
    });
    expect(own.count).toBeCloseTo(count, 3);
    expect(own.targetSquares).toBeCloseTo(squares, 2);
    const half = Array.from({ length: SIZE }, (_, row) =>
      Array.from(gram.subarray(row * SIZE + row, (row + 1) * SIZE)),
    );
    expect(largestDifference(own.gram, half.flat())).toBeLessThan(1e-3);
    expect(largestDifference(own.cross, cross)).toBeLessThan(1e-3);
    expect(largestDifference(own.neuronSums, neurons)).toBeLessThan(1e-3);
    expect(largestDifference(own.targetSums, targets)).toBeLessThan(1e-3);
  }
});

async function twoExperts(withShared: boolean): Promise<LayerExperts> {
  const down = await readDense(layerSource(model, 0));
  const without = { ...down, bias: undefined };
  const shared = withShared ? densePart(Int32Array.of(0, 9, 30), without) : undefined;
  return {
    shared,
    experts: [densePart(Int32Array.of(1, 4, 5, 20), down), densePart(Int32Array.of(2, 3, 4, 47), down)],
  };
}

/** Computes a part's output for a token's neurons. */
function outputOf({ neurons, down, bias }: Part, h: Float64Array): number[] {
  return Array.from(bias, (offset, i) =>
    neurons.reduce((sum, neuron, j) => sum + (down[i * neurons.length + j] as number) * (h[neuron] as number), offset),
  );
}

test.each([false, true])("runs experts, and measures their errors (shared part: %s)", async (withShared) => {
  const { dense, other } = await streams();
  const { goal } = await runDense(pass(), dense, SHARE);
  const plain = await plainStream(other);
  const layer = await twoExperts(withShared);
  const width = stream.hiddenSize;
  const outputs = plain.neurons.map((h) =>
    layer.experts.map((part) =>
      outputOf(part, h).map((value, i) => value + (layer.shared ? (outputOf(layer.shared, h)[i] as number) : 0)),
    ),
  );
  const costs = new Float32Array(stream.numTokens * 2).fill(1);
  const goalOf = (batch: Batch) => (isOfFirstDomain(batch) ? goalOfBatch(stream, goal, batch) : undefined);
  const onErrors = (batch: Batch, errors: Float32Array): void =>
    stream.view(costs, batch, 2).forEach((cost, at, own) => (own[at] = cost + errors[at]!));
  const unchanged = other.slice();
  await runExperts(pass(), other, layer, { goalOf, share: SHARE, onErrors });
  expect(other).toEqual(unchanged);
  const expected = plain.attended.flatMap((row, token) =>
    [0, 1].map((expert) => {
      if (token >= 3 * LENGTH) return 1;
      let sum = 0;
      row.forEach(
        (value, i) =>
          (sum +=
            ((goal.rows[token * width + i] as number) - SHARE * value - (outputs[token]?.[expert]?.[i] as number)) **
            2),
      );
      return 1 + sum * (goal.weights[token] as number);
    }),
  );
  expect(largestDifference(costs, expected)).toBeLessThan(1e-3);
  await runExperts(pass(), other, layer, { routesOf: ({ domain }) => 1 - domain });
  const next = plain.attended.flatMap((row, token) => {
    const expert = token < 3 * LENGTH ? 1 : 0;
    return Array.from(row, (value, i) => value + (outputs[token]?.[expert]?.[i] as number));
  });
  expect(largestDifference(other, next)).toBeLessThan(1e-4);
  const [single, mixed] = [unchanged.slice(), unchanged.slice()];
  await runExperts(pass(), single, layer, { routesOf: () => 1 });
  await runExperts(pass(), mixed, layer, { routesOf: alternatingExperts });
  const first = unchanged.slice();
  await runExperts(pass(), first, layer, { routesOf: () => 0 });
  const [width0, width1] = [stream.hiddenSize, 2 * stream.hiddenSize];
  expect(mixed.slice(0, width0)).toEqual(first.slice(0, width0));
  expect(mixed.slice(width0, width1)).toEqual(single.slice(width0, width1));
});

test("equals the dense layer when every expert has all neurons", async () => {
  const { dense } = await streams();
  const other = dense.slice();
  await runDense(pass(), dense, SHARE);
  const everything = densePart(
    Int32Array.from({ length: SIZE }, (_, i) => i),
    await readDense(pass().source),
  );
  await runExperts(
    pass(),
    other,
    { shared: undefined, experts: [everything, everything] },
    { routesOf: ({ domain }) => domain },
  );
  expect(largestDifference(other, dense)).toBeLessThan(1e-5);
});

test("ends a pass when its signal is aborted", async () => {
  const { dense } = await streams();
  const signal = AbortSignal.abort(new Error("enough"));
  await expect(runDense({ ...pass(), options: { signal } }, dense, SHARE)).rejects.toThrow("enough");
});

test("overlaps are graded shares of a token's most active neurons, by signed activation", async () => {
  const { dense } = await streams();
  const plain = await plainStream(dense);
  const layer = await twoExperts(true);
  const found = new Float32Array(stream.numTokens * 2);
  const keep = (batch: Batch, scores: Float32Array): void => stream.view(found, batch, 2).set(scores);
  await runOverlaps(pass(), dense, layer, { wants: isOfFirstDomain, onScores: keep });
  const size = 4;
  const expected = plain.neurons.flatMap((h, token) => {
    const sorted = Array.from(h).sort((a, b) => b - a);
    const thresholds = [3, 3, 2, 1, 0].map((rank) => sorted[rank] as number);
    return layer.experts.map(({ neurons }) => {
      if (token >= 3 * LENGTH) return 0;
      return neurons.reduce(
        (sum, neuron) => sum + thresholds.filter((threshold) => (h[neuron] as number) > threshold).length / (3 * size),
        0,
      );
    });
  });
  expect(Math.max(...expected)).toBeGreaterThan(0.2);
  expect(largestDifference(found, expected)).toBeLessThan(1e-5);
});

function batchesOf(counts: readonly number[]): Batch[] {
  return counts.flatMap((count, domain) =>
    Array.from({ length: count }, (_, index) => ({ domain, firstSequence: index, numSequences: 1 })),
  );
}

describe("held-back text", () => {
  test("is the last of every eight batches, or the last of fewer, and never all", () => {
    const held = [...heldBackBatches({ batches: batchesOf([16, 3, 1]) })];
    expect(held.map(({ domain, firstSequence }) => [domain, firstSequence])).toEqual([
      [0, 7],
      [0, 15],
      [1, 2],
    ]);
  });

  test("measures the error of each domain's own expert", async () => {
    const { dense, other } = await streams();
    const { goal } = await runDense(pass(), dense, SHARE);
    const layer = await twoExperts(false);
    const costs = new Float32Array(stream.numTokens * 2);
    const goalOf = (batch: Batch) => goalOfBatch(stream, goal, batch);
    const onErrors = (batch: Batch, errors: Float32Array): void => stream.view(costs, batch, 2).set(errors);
    await runExperts(pass(), other, layer, { goalOf, share: SHARE, onErrors });
    const held = new Set([stream.batches[1]!, stream.batches[2]!]);
    const own = [2 * LENGTH, 3 * LENGTH].flatMap((first, domain) =>
      Array.from({ length: LENGTH }, (_, i) => costs[(first + i) * 2 + domain] as number),
    );
    const sum = own.reduce((total, cost) => total + cost, 0);
    const where = { goal, share: SHARE, batches: held, experts: [0, 1] };
    expect(await ownErrors(pass(), other, layer, where)).toBeCloseTo(sum, 4);
  });
});
