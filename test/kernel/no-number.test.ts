// Rows in which something is no number: they show it, and nobody else notices.

import {
  availableInstructions,
  encodeStep,
  KV_PRECISIONS,
  type KernelKind,
  type KvPrecision,
  openKernel,
  type StepRows,
} from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { packFile, packFloat } from "../../packages/kernel/src/pack/pack-product.ts";
import { packTable } from "../../packages/kernel/src/pack/pack-tables.ts";
import { memoryLinear, memoryTensor } from "../support/kernel/memory-store.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { randomModel, type TestModel } from "../support/kernel/random-model.ts";
import { randomFloats } from "../support/kernel/random-weights.ts";
import { NUM_SMALL_PAGES, resultsOf, SMALL_MODEL, SMALL_SHAPE, SMALL_SIZES } from "../support/kernel/small-model.ts";
import { seededRandom } from "../support/random.ts";

const { vocabSize, hiddenSize } = SMALL_SHAPE;
/** Tokens whose embedding has something in it that is no number. */
const [NAN, INFINITE] = [3, 4];

const MODELS: Readonly<Record<string, TestModel>> = {
  experts: SMALL_MODEL,
  mixtures: randomModel({ ...SMALL_SHAPE, mixture: { share: 1, numExperts: 9, expertsPerToken: 3 } }),
};

/** A small model with an embedding of those two tokens. */
async function brokenBytes({ description }: TestModel): Promise<Uint8Array> {
  const table = randomFloats(seededRandom(1), vocabSize * hiddenSize, 1);
  table[NAN * hiddenSize + 5] = NaN;
  table[INFINITE * hiddenSize + 5] = Infinity;
  const embedding = packTable(memoryTensor(table, [vocabSize, hiddenSize]), "float-table");
  return packedBytes({ ...description, embedding });
}

const builds = (["native", "wasm"] as const).flatMap((kernel) =>
  availableInstructions(kernel).flatMap((instructions) =>
    Object.keys(MODELS).flatMap((name) =>
      KV_PRECISIONS.map((kvPrecision) => ({ kernel, instructions, name, kvPrecision })),
    ),
  ),
);

test.each<{ kernel: KernelKind; instructions: string; name: string; kvPrecision: KvPrecision }>(builds)(
  "rows that are no numbers show it and change no other row ($kernel, $instructions, $name, $kvPrecision)",
  async ({ kernel, instructions, name, kvPrecision }) => {
    const model = MODELS[name]!;
    const opened = openKernel(await brokenBytes(model), SMALL_SIZES, { kernel, instructions });
    setAllAngles(opened, model.plain);
    const pages = opened.openPages(NUM_SMALL_PAGES, kvPrecision);
    const run = (sequences: readonly StepRows[]) => {
      const numWanted = sequences.length;
      const results = {
        candidateIds: new Int32Array(2 * numWanted),
        logits: new Float32Array(3 * numWanted),
        sums: new Float64Array(2 * numWanted),
        fullLogits: new Float32Array(0),
      };
      opened.step(pages, encodeStep(sequences, 2), results);
      return results;
    };
    const sound: StepRows = { tokenIds: [7, 8, 9], position: 0, pages: [1], logitsOf: [2] };
    const alone = run([sound]);
    for (const token of [NAN, INFINITE]) {
      const broken: StepRows = { tokenIds: [1, 2, token], position: 0, pages: [0], logitsOf: [2] };
      const both = run([broken, sound]);
      const [largest = 0, sum = 0, ...sums] = both.sums;
      expect(largest + Math.log(sum)).not.toSatisfy(Number.isFinite);
      expect(sums).toEqual(Array.from(alone.sums));
      expect(Array.from(both.candidateIds.slice(2))).toEqual(Array.from(alone.candidateIds));
      // Candidates of the broken row are tokens nevertheless.
      for (const id of both.candidateIds) expect(id >= 0 && id < vocabSize).toBe(true);
    }
    await opened.close();
  },
);

test.each(["native", "wasm"] as const)("halves that are no numbers show it alike in all %s builds", async (kernel) => {
  const { description, plain } = SMALL_MODEL;
  const values = randomFloats(seededRandom(5), vocabSize * hiddenSize, 1);
  const special = [Infinity, -Infinity, NaN, 65_504, 2 ** -24, -0];
  for (const [token, value] of special.entries()) values[(10 + token) * hiddenSize + 7] = value;
  const head = packFile(memoryLinear(values, hiddenSize, undefined, "F16"), "F16");
  const bytes = await packedBytes({ ...description, head });
  const row: StepRows = { tokenIds: [7, 8, 9], position: 0, pages: [0], logitsOf: [2], fullPlaces: [0] };
  const request = encodeStep([row], 1, 1);
  const all: Float32Array[] = [];
  for (const instructions of availableInstructions(kernel)) {
    const opened = openKernel(bytes, SMALL_SIZES, { kernel, instructions });
    setAllAngles(opened, plain);
    const results = { ...resultsOf(1), fullLogits: new Float32Array(vocabSize) };
    opened.step(opened.openPages(NUM_SMALL_PAGES, "fp16"), request, results);
    all.push(results.fullLogits);
    await opened.close();
  }
  const [first] = all;
  expect(special.map((_, token) => Number.isFinite(first?.[10 + token]))).toEqual([
    false,
    false,
    false,
    true,
    true,
    true,
  ]);
  for (const logits of all) expect(logits).toEqual(first);
});

test.each(["native", "wasm"] as const)("a %s router of no numbers chooses experts that are there", async (kernel) => {
  const { description, plain } = MODELS["mixtures"]!;
  const layers = description.layers.map((layer, index) => {
    if (index > 0 || !layer.mixture) return layer;
    const values = randomFloats(seededRandom(2), 9 * hiddenSize, 1);
    // All logits of the first expert are NaN, some of the others infinite.
    values.fill(NaN, 0, hiddenSize);
    values[3 * hiddenSize] = Infinity;
    return { ...layer, mixture: { ...layer.mixture, router: packFloat(memoryLinear(values, hiddenSize, undefined)) } };
  });
  const opened = openKernel(await packedBytes({ ...description, layers }), SMALL_SIZES, { kernel });
  setAllAngles(opened, plain);
  const results = resultsOf(1);
  const row: StepRows = { tokenIds: [7, 8, 9, 10], position: 0, pages: [0], logitsOf: [3] };
  opened.beginStep(opened.openPages(1, "fp16"), encodeStep([row], 1), results);
  const chosen = Array.from(opened.routeLayer(0));
  for (let at = 0; at < chosen.length; at += 3) {
    const own = chosen.slice(at, at + 3);
    expect(new Set(own).size).toBe(3);
    for (const expert of own) expect(expert > 0 && expert < 9).toBe(true);
  }
  opened.feedLayer(0);
  opened.runLayers(1, SMALL_SHAPE.numLayers);
  opened.endStep();
  expect(Array.from(results.sums)).not.toSatisfy((sums: number[]) => sums.every(Number.isFinite));
  await opened.close();
});
