// Mixtures whose layers choose experts: every build gives the bits of the plain implementation, alone, in any batch, with
// any number of threads, and with experts that are placed after the choice.

import {
  encodeStep,
  KV_PAGE_TOKENS,
  KV_PRECISIONS,
  openKernel,
  type Kernel,
  type KernelKind,
  type StepRows,
} from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { plainChoices } from "../oracles/plain-kernel.ts";
import * as fc from "../support/fast-check.ts";
import { mixtureModelShape, type ModelShape } from "../support/kernel/model-shape.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { MAX_POSITIONS, randomModel } from "../support/kernel/random-model.ts";
import { sequencesShape } from "../support/kernel/random-steps.ts";
import { expectedOf, type ReplayCase, replayInBuilds } from "../support/kernel/replay-case.ts";
import { replay } from "../support/kernel/replay.ts";
import { FILE_FORMATS, WEIGHT_FORMATS } from "../support/kernel/random-weights.ts";
import { openRouted } from "../support/kernel/routed-steps.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const SEED = 20_271_215;
const MAX_ROWS = 90;

const anyCase: fc.Arbitrary<ReplayCase> = fc.record({
  model: mixtureModelShape,
  sequences: sequencesShape,
  kvPrecision: fc.constantFrom(...KV_PRECISIONS),
});

test.each(["native", "wasm"] as const)("all %s kernels give the bits of the plain implementation", async (kind) => {
  expect.hasAssertions();
  await fc.assert(
    fc.asyncProperty(anyCase, async (one) => replayInBuilds(one, kind, MAX_ROWS)),
    { seed: SEED, numRuns: 10 },
  );
});

/** Replays a case in a kernel whose experts are placed when they are chosen. */
async function replayRouted(one: ReplayCase, kernel: KernelKind): Promise<void> {
  const { plain, description, sequences, expected } = expectedOf(one, kernel);
  const random = seededRandom(one.model.seed);
  const sizes = { threads: 1 + randomInteger(random, 4), maxRows: MAX_ROWS, maxPositions: MAX_POSITIONS };
  const opened = openRouted(await packedBytes(description), description, sizes, { kernel });
  try {
    setAllAngles(opened.kernel, plain);
    const build = `routed, ${sizes.threads} threads`;
    const { kvPrecision } = one;
    await replay(opened, { sequences, expected: { ...expected, ...sizes, build }, kvPrecision }, random, 2);
  } finally {
    await opened.kernel.close();
  }
}

test.each(["native", "wasm"] as const)(
  "%s kernels whose experts are placed when they are chosen do",
  async (kernel) => {
    expect.hasAssertions();
    const routed = anyCase
      // Experts of a layer have units of one size, so their weights have one format.
      .map((one) => ({ ...one, model: { ...one.model, numExperts: 1, formats: one.model.formats.slice(0, 1) } }))
      .filter(({ model }) => randomModel(model).description.layers.some(({ mixture }) => mixture));
    await fc.assert(
      fc.asyncProperty(routed, async (one) => replayRouted(one, kernel)),
      { seed: SEED, numRuns: 8 },
    );
  },
);

test.each(["native", "wasm"] as const)(
  "%s kernels do with the blocks of files, beside experts that all tokens use, placed or in memory",
  async (kernel) => {
    const sizes = { hiddenSize: 256, headSize: 64, numKvHeads: 1, ffnSize: 256, expertSize: 256, numExperts: 1 };
    const mixture = { share: 1, numExperts: 5, expertsPerToken: 2 };
    let numShared = 0;
    const formats = FILE_FORMATS.filter((_, index) => RUNS_LONG_TESTS || index % 10 === 2);
    for (const format of formats) {
      const model = { ...sizes, numLayers: 2, vocabSize: 90, mixture, seed: 100 + format, formats: [format] };
      const one = { model, sequences: { seed: 5, lengths: [7, 1, 3], sharedPages: 0 }, kvPrecision: "fp16" as const };
      const { layers } = randomModel(model).description;
      const expected = WEIGHT_FORMATS[format];
      for (const { shared, mixture: own } of layers) {
        numShared += shared ? 1 : 0;
        const products = own?.experts.flatMap(({ gate, up, down }) => [gate, up, down]);
        const names = new Set(products?.map((product) => product?.format));
        expect(names).toStrictEqual(new Set([expected?.name === "file" && expected.type]));
      }
      await replayInBuilds(one, kernel, MAX_ROWS);
      await replayRouted(one, kernel);
    }
    expect(numShared).toBeGreaterThanOrEqual(formats.length / 2);
  },
);

const SHAPE: ModelShape = {
  seed: 17,
  hiddenSize: 72,
  headSize: 16,
  numKvHeads: 1,
  ffnSize: 64,
  numExperts: 1,
  numLayers: 2,
  vocabSize: 90,
  formats: [1],
  mixture: { share: 1, numExperts: 12, expertsPerToken: 3 },
};

/** Makes rows of whole sequences on pages of their own, with logits of some of their tokens. */
function wholeRows(lengths: readonly number[], logitsOf: (length: number) => readonly number[]): readonly StepRows[] {
  const random = seededRandom(3);
  let page = 0;
  return lengths.map((length) => ({
    tokenIds: Array.from({ length }, () => randomInteger(random, SHAPE.vocabSize)),
    position: 0,
    pages: Array.from({ length: Math.ceil(length / KV_PAGE_TOKENS) }, () => page++),
    logitsOf: logitsOf(length),
  }));
}

function roomFor(numWanted: number) {
  return {
    candidateIds: new Int32Array(numWanted),
    logits: new Float32Array(2 * numWanted),
    sums: new Float64Array(2 * numWanted),
    fullLogits: new Float32Array(0),
  };
}

test.each(["native", "wasm"] as const)(
  "a %s router chooses the plain implementation's experts, in the order of the step's rows",
  async (kernel) => {
    const { plain, description } = randomModel(SHAPE);
    const rows = wholeRows([5, 1, 18], (length) => (length === 1 ? [] : [1, length - 1, length - 1]));
    const sizes = { maxRows: 32, maxPositions: MAX_POSITIONS, threads: 2 };
    const opened = openRouted(await packedBytes(description), description, sizes, { kernel });
    setAllAngles(opened.kernel, plain);
    opened.step(opened.openPages(8, "fp16"), encodeStep(rows, 1), roomFor(6));
    const all = rows.map(({ tokenIds }) =>
      plainChoices(
        plain,
        Array.from(tokenIds, (id) => ({ id, expert: 0 })),
        { kvPrecision: "fp16", isFused: kernel === "native" },
      ),
    );
    const choicesOf = (layer: number, sequence: number) => all[sequence]?.get(plain.layers[layer]!) ?? [];
    expect(Array.from(opened.chosen[0]!)).toEqual([0, 1, 2].flatMap((sequence) => choicesOf(0, sequence).flat()));
    // In the last layer only rows with wanted logits, each once.
    expect(Array.from(opened.chosen[1]!)).toEqual(
      rows.flatMap(({ logitsOf }, sequence) =>
        Array.from(new Set(logitsOf)).flatMap((row) => choicesOf(1, sequence)[row] ?? []),
      ),
    );
    await opened.kernel.close();
  },
);

/** Returns largest logits and sums of all rows of sequences, in steps of up to `maxRows` rows. */
function summaries(kernel: Kernel, rows: readonly StepRows[], maxRows: number): Float64Array {
  const pages = kernel.openPages(40, "fp32");
  const sums: number[] = [];
  for (let first = 0; first < rows.length;) {
    let [end, numRows] = [first, 0];
    while (end < rows.length && (end === first || numRows + rows[end]!.tokenIds.length <= maxRows)) {
      numRows += rows[end++]!.tokenIds.length;
    }
    const results = roomFor(numRows);
    kernel.step(pages, encodeStep(rows.slice(first, end), 1), results);
    sums.push(...results.sums);
    first = end;
  }
  pages.close();
  return Float64Array.from(sums);
}

test("rows whose experts do not fit one piece of memory have the bits of small steps", async () => {
  const { plain, description } = randomModel({
    ...SHAPE,
    formats: [0, 1],
    mixture: { share: 1, numExperts: 20, expertsPerToken: 8 },
  });
  const bytes = await packedBytes(description);
  const rows = wholeRows([128, 128, 128, 128, 100], (length) => Array.from({ length }, (_, row) => row));
  const [few, many] = [1, 2].map((threads) =>
    openKernel(bytes, { threads, maxRows: 640, maxPositions: MAX_POSITIONS }, { kernel: "native" }),
  ) as [Kernel, Kernel];
  for (const kernel of [few, many]) setAllAngles(kernel, plain);
  // 612 rows of 8 experts are 4,896 pairs, and 4,096 run together.
  expect(summaries(many, rows, 640)).toEqual(summaries(few, rows, 130));
  await Promise.all([few.close(), many.close()]);
});
