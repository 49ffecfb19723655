// Every build of the kernel gives the bits of the plain implementation, however its rows are batched.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import * as fc from "../support/fast-check.ts";
import { availableInstructions, KV_PRECISIONS, openKernel } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { plainRows } from "../oracles/plain-kernel.ts";
import { seededRandom } from "../support/random.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { modelShape, type ModelShape, recurrentModelShape } from "../support/kernel/model-shape.ts";
import { FILE_FORMATS } from "../support/kernel/random-weights.ts";
import { MAX_POSITIONS, randomModel } from "../support/kernel/random-model.ts";
import { randomSequences, sequencesShape } from "../support/kernel/random-steps.ts";
import { plainTokens, type ReplayCase, replayInBuilds } from "../support/kernel/replay-case.ts";
import { replay } from "../support/kernel/replay.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SEED = 20_261_127;
const MAX_ROWS = 90;

const anyCase: fc.Arbitrary<ReplayCase> = fc.record({
  model: modelShape,
  sequences: sequencesShape,
  kvPrecision: fc.constantFrom(...KV_PRECISIONS),
});

test.each(["native", "wasm"] as const)("all %s kernels give the bits of the plain implementation", async (kind) => {
  expect.hasAssertions();
  await fc.assert(
    fc.asyncProperty(anyCase, async (one) => replayInBuilds(one, kind, MAX_ROWS)),
    { seed: SEED, numRuns: 12 },
  );
});

const recurrentCase: fc.Arbitrary<ReplayCase> = fc.record({
  model: recurrentModelShape,
  sequences: sequencesShape,
  kvPrecision: fc.constantFrom(...KV_PRECISIONS),
});

test.each(["native", "wasm"] as const)("all %s kernels give them with recurrences", async (kind) => {
  expect.hasAssertions();
  await fc.assert(
    fc.asyncProperty(recurrentCase, async (one) => replayInBuilds(one, kind, MAX_ROWS)),
    { seed: SEED, numRuns: RUNS_LONG_TESTS ? 40 : 14 },
  );
});

// Attention joins tiles of 256 positions; threads share the tiles of a long row.
const longCase: fc.Arbitrary<ReplayCase> = fc.record({
  model: modelShape.map((shape) => ({
    ...shape,
    hiddenSize: 32,
    headSize: 2 * (1 + (shape.headSize % 4)),
    numKvHeads: 1 + (shape.numKvHeads % 2),
    numLayers: 1 + (shape.numLayers % 2),
    maxPositions: 900,
  })),
  sequences: fc.record({
    seed: fc.nat(2 ** 31 - 1),
    lengths: fc.tuple(
      fc.integer({ min: 513, max: 900 }),
      fc.integer({ min: 200, max: 600 }),
      fc.integer({ min: 1, max: 60 }),
    ),
    sharedPages: fc.nat(40),
  }),
  kvPrecision: fc.constantFrom(...KV_PRECISIONS),
});

test.each(["native", "wasm"] as const)("all %s kernels give them behind many positions", async (kind) => {
  expect.hasAssertions();
  await fc.assert(
    fc.asyncProperty(longCase, async (one) => replayInBuilds(one, kind, MAX_ROWS)),
    // Both kinds together try two cases where tests have to be quick.
    RUNS_LONG_TESTS ? { seed: SEED, numRuns: 3 } : { seed: kind === "native" ? SEED : SEED + 1, numRuns: 1 },
  );
});

const LARGER: ModelShape = {
  seed: 11,
  hiddenSize: 96,
  headSize: 32,
  numKvHeads: 2,
  ffnSize: 160,
  numExperts: 3,
  numLayers: 3,
  vocabSize: 200,
  formats: [0, 1, 2, 3, 4, 5, 7, 9, 10],
};

test.each(["native", "wasm"] as const)("all %s kernels give them with the blocks of files", async (kind) => {
  expect.hasAssertions();
  const sizes = {
    hiddenSize: 256,
    headSize: 64,
    numKvHeads: 2,
    ffnSize: 256,
    expertSize: 256,
    numLayers: 1,
    vocabSize: 130,
  };
  const sequences = { seed: 5, lengths: [9, 1, 4], sharedPages: 0 };
  for (const format of FILE_FORMATS) {
    // Rows of every fourth model name experts.
    const model = { ...sizes, seed: format, formats: [format], numExperts: format % 4 === 0 ? 3 : 1 };
    // oxlint-disable-next-line no-await-in-loop -- one model after the other
    await replayInBuilds({ model, sequences, kvPrecision: "int8" }, kind, MAX_ROWS);
  }
});

test.each(["native", "wasm"] as const)(
  "all %s kernels give them from a file, with threads that have started",
  async (kernel) => {
    const { plain, description } = randomModel(LARGER);
    const sequences = randomSequences({ seed: 3, lengths: [40, 50, 17], sharedPages: 1 }, LARGER.vocabSize);
    const kvPrecision = "int8" as const;
    const { vocabSize, numExperts } = LARGER;
    const numLogits = vocabSize;
    const options = { kvPrecision, isFused: kernel === "native" };
    const rows = sequences.map(({ tokenIds }) => plainRows(plain, plainTokens(tokenIds, numExperts), options));
    const path = join(await temporaryFolder(), "packed");
    await writeFile(path, await packedBytes(description));
    const random = seededRandom(SEED);
    for (const instructions of availableInstructions(kernel)) {
      const sizes = { threads: 4, maxRows: MAX_ROWS, maxPositions: MAX_POSITIONS };
      const opened = openKernel(path, sizes, { kernel, instructions });
      setAllAngles(opened, plain);
      const expected = { rows, vocabSize, numLogits, numExperts, build: instructions, ...sizes };
      for (let time = 0; time < 8; time++) {
        await replay(opened, { sequences, expected, kvPrecision }, random, 1);
        // Threads of WebAssembly take a while to come.
        await setTimeout(10);
      }
      await opened.close();
    }
  },
);
