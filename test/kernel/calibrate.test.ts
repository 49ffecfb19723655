// What a model's products take in, measured by the kernel and by plain loops.

import { calibrateModel, type CalibrationTokens } from "@readme-moe/kernel";
import { type InputStatistics, openModel, type Model } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { plainLayer } from "../oracles/plain-decoder.ts";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

let model: Model;
let sequences: () => Promise<readonly CalibrationTokens[]>;
let products: readonly string[];

beforeAll(async () => {
  model = await openModel(fixture("families/llama-tied"));
  const random = seededRandom(7);
  const { vocabSize, numLayers } = model.config;
  const texts = [40, 1, 33].map((length) => Array.from({ length }, () => randomInteger(random, vocabSize)));
  sequences = async () => texts.map((tokenIds) => ({ tokenIds, experts: tokenIds.map(() => 0) }));
  products = Array.from({ length: numLayers }, (_, layer) =>
    ["attention.qkv", "attention.output", "ffn", "ffn.down"].map((product) => `layers.${layer}.${product}`),
  ).flat();
});

afterAll(async () => model.close());

async function squaresOf(statistics: InputStatistics): Promise<readonly Float32Array[]> {
  const squares: Float32Array[] = [];
  for (const product of products) squares.push(await statistics.inputSquares(product));
  return squares;
}

test("agrees with plain loops within the error of 8 bits", async () => {
  const measured = await squaresOf(calibrateModel(model, sequences, { threads: 2 }));
  const expected = await plainSquares();
  for (const [index, squares] of expected.entries()) {
    const errors = squares.map((square, i) => (measured[index]?.[i] as number) - square);
    expect(lengthOf(errors), products[index]).toBeLessThan(0.03 * lengthOf(squares));
  }
});

/** The squares of all products' inputs, summed over all tokens. */
async function plainSquares(): Promise<readonly Float32Array[]> {
  const { embedding } = model.weights;
  const { hiddenSize, numLayers } = model.config;
  const table = await embedding.store.readFloats(embedding.name);
  const squares: Float32Array[] = [];
  for (const { tokenIds } of await sequences()) {
    let rows: Float64Array[] = Array.from(tokenIds, (id) =>
      Float64Array.from(table.subarray(id * hiddenSize, (id + 1) * hiddenSize)),
    );
    for (let layer = 0; layer < numLayers; layer++) {
      const plain = await plainLayer(model, layer, rows);
      const inputs = [plain.attentionInput, plain.heads, plain.ffnInput, plain.neurons];
      for (const [place, input] of inputs.entries()) {
        const sums = (squares[4 * layer + place] ??= new Float32Array(input[0]?.length ?? 0));
        for (const row of input) row.forEach((value, i) => (sums[i] = (sums[i] as number) + value * value));
      }
      rows = plain.next;
    }
  }
  return squares;
}

function lengthOf(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

test("gives the same bits in every build, with any number of threads and of layers in memory", async () => {
  const first = await squaresOf(calibrateModel(model, sequences, { threads: 1, kernel: "native" }));
  for (const options of [
    { kernel: "native", threads: 3, pieceBytes: 1 },
    { kernel: "native", instructions: "plain", threads: 1 },
    { kernel: "wasm", threads: 2, pieceBytes: 1 },
  ] as const) {
    expect(await squaresOf(calibrateModel(model, sequences, options))).toEqual(first);
  }
});

test.each([...fixtureNames("families"), ...fixtureNames("mixtures")])(
  "measures each layer of %s alone as among the others",
  async (name) => {
    const family = await openModel(fixture(name));
    const lastSquares = async (pieceBytes: number): Promise<Float32Array> => {
      const ffn = `layers.${family.config.numLayers - 1}.ffn`;
      const last = family.config.mixture ? `${ffn}.1.down` : `${ffn}.down`;
      return calibrateModel(family, sequences, { threads: 1, pieceBytes }).inputSquares(last);
    };
    expect(await lastSquares(1)).toEqual(await lastSquares(2 ** 30));
    await family.close();
  },
);

test.each(fixtureNames("mixtures"))("counts each token of %s for each of its experts", async (name) => {
  const mixture = await openModel(fixture(name));
  const { numExperts = 0, expertsPerToken = 0 } = mixture.config.mixture ?? {};
  const statistics = calibrateModel(mixture, sequences, { threads: 2 });
  for (let layer = 0; layer < mixture.config.numLayers; layer++) {
    const ofAll = await statistics.inputSquares(`layers.${layer}.ffn`);
    const sums = new Float64Array(ofAll.length);
    for (let expert = 0; expert < numExperts; expert++) {
      (await statistics.inputSquares(`layers.${layer}.ffn.${expert}`)).forEach(
        (square, i) => (sums[i] = sums[i]! + square),
      );
    }
    for (const [i, square] of ofAll.entries()) {
      expect(sums[i]! / (expertsPerToken * square)).toBeCloseTo(1, 5);
    }
  }
  await mixture.close();
});

test("computes products in any order, and refuses unknown ones", async () => {
  const statistics = calibrateModel(model, sequences, { threads: 1, pieceBytes: 1 });
  const last = products.at(-1) as string;
  const [late, early] = await Promise.all([
    statistics.inputSquares(last),
    statistics.inputSquares(products[0] as string),
  ]);
  const all = await squaresOf(statistics);
  expect([early, late]).toEqual([all[0], all.at(-1)]);
  await expect(statistics.inputSquares("layers.99.ffn.down")).rejects.toThrow(RangeError);
});
