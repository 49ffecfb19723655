// Statistics of products' inputs: the same bits in every build, and those of the plain implementation.

import * as fc from "../support/fast-check.ts";
import { availableInstructions, encodeStep, KV_PAGE_TOKENS, openKernel, type KernelKind } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { plainInputSquares } from "../oracles/plain-kernel.ts";
import { mixtureModelShape, modelShape, type ModelShape } from "../support/kernel/model-shape.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { MAX_POSITIONS, randomModel } from "../support/kernel/random-model.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const SEED = 20_261_127;
const NUM_PAGES = 8;

async function checkShape(shape: ModelShape, kernel: KernelKind): Promise<void> {
  const { plain, description } = randomModel(shape);
  const random = seededRandom(shape.seed);
  const tokens = (length: number): number[] => Array.from({ length }, () => randomInteger(random, shape.vocabSize));
  const sequences = [tokens(1 + randomInteger(random, 40)), tokens(1 + randomInteger(random, 20))];
  const options = { kvPrecision: "fp16" as const, isFused: kernel === "native" };
  const experts = sequences.map((tokenIds) => tokenIds.map(() => randomInteger(random, shape.numExperts)));
  const plainTokens = sequences.map((tokenIds, sequence) =>
    tokenIds.map((id, index) => ({ id, expert: experts[sequence]?.[index] as number })),
  );
  const expected = plainInputSquares(plain, plainTokens, options);
  let page = 0;
  const rows = sequences.map((tokenIds, index) => ({
    tokenIds,
    experts: experts[index],
    position: 0,
    pages: Array.from({ length: Math.ceil(tokenIds.length / KV_PAGE_TOKENS) }, () => page++),
    logitsOf: Array.from(tokenIds.keys()),
  }));
  const numRows = sequences.flat().length;
  const sizes = { maxRows: numRows, maxPositions: MAX_POSITIONS };
  const bytes = await packedBytes(description);
  for (const instructions of availableInstructions(kernel)) {
    const threads = 1 + randomInteger(random, 4);
    const opened = openKernel(bytes, { ...sizes, threads }, { kernel, instructions });
    setAllAngles(opened, plain);
    const pages = opened.openPages(NUM_PAGES, options.kvPrecision);
    const results = {
      candidateIds: new Int32Array(numRows),
      logits: new Float32Array(2 * numRows),
      sums: new Float64Array(2 * numRows),
      fullLogits: new Float32Array(0),
      inputSquares: new Float32Array(expected.length),
    };
    opened.step(pages, encodeStep(rows, 1), results);
    expect(results.inputSquares, `${instructions}, ${threads} threads`).toEqual(expected);
    pages.close();
    await opened.close();
  }
}

test.each(["native", "wasm"] as const)(
  "%s kernels sum the squares that the plain implementation does",
  async (kind) => {
    await fc.assert(
      fc.asyncProperty(modelShape, async (shape) => checkShape(shape, kind)),
      { seed: SEED, numRuns: 12 },
    );
    await fc.assert(
      fc.asyncProperty(mixtureModelShape, async (shape) => checkShape(shape, kind)),
      { seed: SEED, numRuns: 6 },
    );
  },
);

test.each(["native", "wasm"] as const)("%s kernels report zeros for experts without rows in a step", async (kernel) => {
  const shape: ModelShape = {
    seed: 1,
    hiddenSize: 32,
    headSize: 8,
    numKvHeads: 1,
    ffnSize: 32,
    numExperts: 1,
    numLayers: 1,
    vocabSize: 40,
    formats: [1],
    mixture: { share: 1, numExperts: 12, expertsPerToken: 1 },
  };
  const { plain, description } = randomModel(shape);
  const sizes = { maxRows: 40, maxPositions: MAX_POSITIONS, threads: 2 };
  const opened = openKernel(await packedBytes(description), sizes, { kernel });
  setAllAngles(opened, plain);
  const pages = opened.openPages(3, "fp16");
  // The second step's row uses one expert; memory of the first step's results is used again.
  for (const tokenIds of [Array.from({ length: 40 }, (_, id) => id), [7]]) {
    const { length } = tokenIds;
    const expected = plainInputSquares(plain, [tokenIds.map((id) => ({ id, expert: 0 }))], {
      kvPrecision: "fp16",
      isFused: kernel === "native",
    });
    const results = {
      candidateIds: new Int32Array(length),
      logits: new Float32Array(2 * length),
      sums: new Float64Array(2 * length),
      fullLogits: new Float32Array(0),
      inputSquares: new Float32Array(expected.length).fill(3),
    };
    const row = { tokenIds, position: 0, pages: [0, 1, 2], logitsOf: Array.from(tokenIds.keys()) };
    opened.step(pages, encodeStep([row], 1), results);
    expect(results.inputSquares).toEqual(expected);
  }
  await opened.close();
});
