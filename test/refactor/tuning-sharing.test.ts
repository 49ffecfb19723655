// Changes of neurons that experts have in common: how weights are put together, which neurons are found, and what one
// expert's tokens teach another one.

import { join } from "node:path";
import { decodeFloats, encodeFloats, openModel, type Model } from "@readme-moe/model";
import { afterAll, describe, expect, test } from "vitest";
import {
  ComposedWeight,
  type WeightPart,
  chooseParameters,
  findExpertNeurons,
  gatesOf,
  type GatesOfLayers,
  shareInCommon,
} from "../../packages/refactor/src/tuning/parameters.ts";
import {
  readDecoderWeights,
  type DecoderWeights,
  type Weight,
  type WeightGroup,
} from "../../packages/refactor/src/tuning/weights.ts";
import { matrix } from "../../packages/refactor/src/linear-algebra/matrix.ts";
import { Trainer } from "../../packages/refactor/src/tuning/train.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

type Random = () => number;

const ROUNDS = 30;
const folder = await persistentFolder();
const models: Model[] = [];
afterAll(async () => {
  for (const model of models) await model.close();
});

function drawn(random: Random, key: string, shape: readonly number[]): Weight {
  const size = shape.reduce((product, one) => product * one, 1);
  return { key, shape, values: Float32Array.from({ length: size }, () => randomNormal(random)) };
}

/** Draws different numbers below `limit`, in any order. */
function someOf(random: Random, count: number, limit: number): Int32Array {
  const left = [...Array(limit).keys()];
  return Int32Array.from({ length: count }, () => left.splice(randomInteger(random, left.length), 1)[0]!);
}

/** Draws a weight of a few overlapping blocks, some of them with chosen rows or columns. */
function composition(random: Random): { readonly weight: ComposedWeight; readonly parts: readonly WeightPart[] } {
  const [rows, columns] = [2 + randomInteger(random, 6), 2 + randomInteger(random, 6)];
  const parts = Array.from({ length: 1 + randomInteger(random, 3) }, (_, index): WeightPart => {
    const [row, column] = [randomInteger(random, rows), randomInteger(random, columns)];
    const [height, width] = [1 + randomInteger(random, rows - row), 1 + randomInteger(random, columns - column)];
    const [hasRows, hasColumns] = [random() < 0.5, random() < 0.5];
    const shape = [height + (hasRows ? 3 : 0), width + (hasColumns ? 2 : 0)] as const;
    return {
      weight: drawn(random, `part ${index}`, shape),
      row,
      column,
      rows: hasRows ? someOf(random, height, shape[0]) : undefined,
      columns: hasColumns ? someOf(random, width, shape[1]) : undefined,
    };
  });
  return { weight: new ComposedWeight("whole", [rows, columns], parts), parts };
}

describe("a composed weight", () => {
  test("is the sum of its parts' blocks", () => {
    const random = seededRandom(1);
    for (let round = 0; round < ROUNDS; round++) {
      const { weight, parts } = composition(random);
      const [height, width] = weight.shape;
      const expected = Array.from({ length: height * width }, (_, at) => {
        const [i, j] = [Math.floor(at / width), at % width];
        return parts.reduce((sum, { weight: own, row = 0, column = 0, rows, columns }) => {
          const [ownHeight = 0, ownWidth = 0] = own.shape;
          const [r, c] = [i - row, j - column];
          if (r < 0 || c < 0 || r >= (rows?.length ?? ownHeight) || c >= (columns?.length ?? ownWidth)) return sum;
          return sum + own.values[(rows?.[r] ?? r) * ownWidth + (columns?.[c] ?? c)]!;
        }, 0);
      });
      expect(closeTo(weight.values, expected)).toBe(true);
    }
  });

  test("follows its parts when they change", () => {
    const part = drawn(seededRandom(2), "part", [2, 2]);
    const weight = new ComposedWeight("whole", [2, 2], [{ weight: part }]);
    expect([...weight.values]).toEqual([...part.values]);
    part.values[3] = 9;
    expect([...weight.values]).toEqual([...part.values]);
  });

  test("has gradients that agree with its values: the map is linear, so both products are equal", () => {
    const random = seededRandom(3);
    for (let round = 0; round < ROUNDS; round++) {
      const { weight, parts } = composition(random);
      const gradient = drawn(random, "gradient", weight.shape).values;
      const sums = new Map<string, Float32Array>();
      weight.addGradient(gradient, ({ key, values }) => {
        const sum = sums.get(key) ?? new Float32Array(values.length);
        sums.set(key, sum);
        return sum;
      });
      const inParts = parts.reduce((sum, { weight: own }) => sum + dot(own.values, sums.get(own.key)!), 0);
      expect(inParts).toBeCloseTo(dot(weight.values, gradient), 4);
    }
  });
});

test("finds the neurons of experts in half precision, also after small changes", async () => {
  const random = seededRandom(4);
  const [neurons, hidden, size] = [40, 16, 24];
  const dense = drawn(random, "dense", [neurons, hidden]);
  const lists = Array.from({ length: 3 }, () => someOf(random, size, neurons));
  const expert = (list: Int32Array): Weight => {
    const rows = Array.from(list, (neuron) => [...dense.values.subarray(neuron * hidden, (neuron + 1) * hidden)]);
    const changed = Float32Array.from(rows.flat(), (value) => value + 0.05 * randomNormal(random));
    return { key: "expert", shape: [size, hidden], values: decodeFloats(encodeFloats(changed, "F16"), "F16") };
  };
  const gates = (experts: readonly Weight[]): GatesOfLayers => [
    experts.map(
      ({ shape: [rows = 0], values }) =>
        async () =>
          matrix(rows, hidden, values),
    ),
  ];
  const weights = { student: gates(lists.map(expert)), teacher: gates([dense]) };
  const found = await findExpertNeurons(weights, { threads: 1 });
  expect(found).toEqual([lists]);
  const shared = lists.map((list, own) =>
    list.filter((n) => lists.some((other, at) => at !== own && other.includes(n))),
  );
  expect(shareInCommon(found)).toBeCloseTo(shared.reduce((sum, { length }) => sum + length, 0) / (3 * size), 10);
  const wide = { student: gates([dense]), teacher: gates([expert(lists[0]!)]) };
  await expect(findExpertNeurons(wide, { threads: 1 })).rejects.toThrow(/at most 24 neurons/);
});

describe.each(["lora", "full"] as const)("tokens of one expert, with %s", (method) => {
  test("change the neurons that other experts also have, alike in them, and no others", async () => {
    const { weights, neurons, step } = await setUp(method);
    const before = neuronsOf(weights, neurons);
    await step(1);
    await step(1);
    const after = neuronsOf(weights, neurons);
    const movedBy = (key: string): number[] => {
      const start = before.get(key)!.values;
      return Array.from(after.get(key)!.values, (value, i) => value - start[i]!);
    };
    let [numCommon, numOthers] = [0, 0];
    // Expert 1 also has its own change; experts 0 and 2 have no tokens.
    for (const [key, { isTaught }] of after) {
      if (!key.startsWith("0 ")) continue;
      const moved = movedBy(key);
      if (isTaught) {
        numCommon++;
        expect(Math.max(...moved.map(Math.abs)), key).toBeGreaterThan(0);
      } else if (method === "full" || key.includes("gate")) {
        // Ranks in common of neurons' outputs are random at first, so that all outputs change.
        numOthers++;
        expect(Math.max(...moved.map(Math.abs)), key).toBe(0);
      }
      const same = key.replace("0 ", "2 ");
      if (after.has(same)) expect(closeTo(Float32Array.from(moved), movedBy(same)), key).toBe(true);
    }
    expect(numCommon).toBeGreaterThan(20);
    expect(numOthers).toBeGreaterThan(10);
  });
});

/** Prepares three experts with changes in common; `step` trains with tokens of one of them. */
async function setUp(method: "lora" | "full") {
  const path = join(folder, method);
  await writeTinyReadMe(path, { seed: 5 });
  await writeTinyReadMe(`${path}-teacher`, { seed: 6, numExperts: 1, expertSizes: [48, 64] });
  const [student, teacher] = [await openModel(path), await openModel(`${path}-teacher`)];
  models.push(student, teacher);
  const weights = { student: await readDecoderWeights(student), teacher: await readDecoderWeights(teacher) };
  const neurons = await findExpertNeurons({ student: gatesOf(student), teacher: gatesOf(teacher) }, { threads: 1 });
  const sharing = { neurons, intermediateSize: 64, rank: 2 };
  const trained = chooseParameters(weights.student, { method, rank: 3, attention: false, seed: 7, sharing });
  const settings = { sequenceTokens: 8, microSequences: 2, labelShare: 0.3, threads: 1, signal: undefined };
  const trainer = new Trainer(student.config, weights, trained, settings);
  const random = seededRandom(8);
  return {
    weights: weights.student,
    neurons,
    step: async (expert: number): Promise<void> => {
      const sequences = Array.from({ length: 2 }, () => ({
        tokenIds: Int32Array.from({ length: 8 }, () => randomInteger(random, 96)),
        experts: new Uint16Array(8).fill(expert),
        domain: 0,
      }));
      await trainer.step(sequences, { matrices: 0.01, vectors: 0.01, weightDecay: 0 });
    },
  };
}

interface TrainedNeuron {
  readonly values: Float32Array;
  /** Whether expert 1 has the neuron. */
  readonly isTaught: boolean;
}

/** Returns gate row and down column of each neuron as trained, by expert, layer and dense neuron. */
function neuronsOf(
  { layers }: DecoderWeights,
  neurons: readonly (readonly Int32Array[])[],
): Map<string, TrainedNeuron> {
  const result = new Map<string, TrainedNeuron>();
  for (const [index, { experts }] of layers.entries()) {
    for (const [which, group] of experts.entries()) {
      const [gate, down] = [trainedProduct(group, "expert.gate"), trainedProduct(group, "expert.down")];
      for (const [place, neuron] of neurons[index]![which]!.entries()) {
        const row = gate.values.subarray(place * gate.size, (place + 1) * gate.size);
        const column = Float32Array.from({ length: down.out }, (_, i) => down.values[i * down.size + place]!);
        const isTaught = neurons[index]![1]!.includes(neuron);
        result.set(`${which} gate ${index} ${neuron}`, { values: row, isTaught });
        result.set(`${which} down ${index} ${neuron}`, { values: column, isTaught });
      }
    }
  }
  return result;
}

interface TrainedProduct {
  readonly out: number;
  readonly size: number;
  readonly values: Float32Array;
}

/** Adds a product's change of low rank to its weight, if it has one. */
function trainedProduct(group: WeightGroup, product: string): TrainedProduct {
  const weight = group.get(`${product}.weight`)!;
  const [out = 0, size = 0] = weight.shape;
  const [left, right] = [group.get(`${product}.left`), group.get(`${product}.right`)];
  const rank = left?.shape[0] ?? 0;
  const [a, b] = [left?.values ?? new Float32Array(), right?.values ?? new Float32Array()];
  const values = weight.values.map((value, at) => {
    const [row, column] = [Math.floor(at / size), at % size];
    return Array.from({ length: rank }).reduce(
      (sum: number, _, k) => sum + b[row * rank + k]! * a[k * size + column]!,
      value,
    );
  });
  return { out, size, values };
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function closeTo(a: Float32Array, b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => Math.abs(value - b[i]!) < 1e-4);
}
