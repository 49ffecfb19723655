// Loras: every build of the kernel gives the bits of the plain implementation.

import {
  loraBytes,
  availableInstructions,
  openKernel,
  KV_PRECISIONS,
  packLora,
  type Kernel,
  type KernelKind,
  type KvPrecision,
} from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { plainRows } from "../oracles/plain-kernel.ts";
import { memoryTensor } from "../support/kernel/memory-store.ts";
import { mixtureModelShape, modelShape, type ModelShape } from "../support/kernel/model-shape.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { randomLora, type TestLora } from "../support/kernel/random-lora.ts";
import { MAX_POSITIONS, randomModel } from "../support/kernel/random-model.ts";
import {
  lorasOf,
  expertsOf,
  randomSequences,
  sequencesShape,
  type SequencesShape,
} from "../support/kernel/random-steps.ts";
import { replay } from "../support/kernel/replay.ts";
import {
  NUM_SMALL_PAGES,
  resultsOf,
  SMALL_EXPERTS,
  SMALL_REQUEST,
  SMALL_SIZES,
} from "../support/kernel/small-model.ts";
import { pageMemory } from "../support/page-memory.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import * as fc from "../support/fast-check.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";

const MAX_ROWS = 90;
const SHAPE: ModelShape = {
  seed: 5,
  hiddenSize: 300,
  headSize: 16,
  numKvHeads: 2,
  ffnSize: 530,
  numExperts: 1,
  numLayers: 2,
  vocabSize: 90,
  formats: [1],
};

/** Packs a lora into memory that begins on a page. */
async function packed({ plain, packed: expert }: TestLora): Promise<Uint8Array> {
  const bytes = pageMemory(loraBytes(expert, plain.precision));
  let end = 0;
  for await (const piece of packLora(expert, plain.precision, () => ({}))) {
    bytes.set(piece, end);
    end += piece.length;
  }
  expect(end).toBe(bytes.length);
  return bytes;
}

async function placeAll(kernel: Kernel, loras: readonly TestLora[]): Promise<void> {
  for (const [slot, lora] of loras.entries()) kernel.placeLora(slot, await packed(lora));
}

async function checkCase(
  model: ModelShape,
  shape: SequencesShape,
  kind: KernelKind,
  kvPrecision: KvPrecision,
): Promise<void> {
  const { plain, description } = randomModel(model);
  const random = seededRandom(model.seed ^ shape.seed);
  const loras = Array.from({ length: 1 + randomInteger(random, 4) }, () => randomLora(random, plain));
  const sequences = randomSequences(shape, model.vocabSize);
  const rows = sequences.map(({ tokenIds }) => {
    const experts = expertsOf(tokenIds, model.numExperts);
    const slots = lorasOf(tokenIds, loras.length);
    const tokens = tokenIds.map((id, i) => ({ id, expert: experts[i] ?? 0, lora: loras[slots[i] ?? -1]?.plain }));
    return plainRows(plain, tokens, { kvPrecision, isFused: kind === "native" });
  });
  const bytes = await packedBytes(description);
  for (const instructions of availableInstructions(kind)) {
    const sizes = { threads: 1 + randomInteger(random, 4), maxRows: MAX_ROWS, maxPositions: MAX_POSITIONS };
    const kernel = openKernel(bytes, sizes, { kernel: kind, instructions });
    try {
      setAllAngles(kernel, plain);
      await placeAll(kernel, loras);
      const expected = {
        rows,
        vocabSize: model.vocabSize,
        numLogits: model.numLogits ?? model.vocabSize,
        numExperts: model.numExperts,
        numLoras: loras.length,
        build: `${instructions}, ${sizes.threads} threads`,
        ...sizes,
      };
      await replay(kernel, { sequences, expected, kvPrecision }, random, 2);
    } finally {
      await kernel.close();
    }
  }
}

test.each(["native", "wasm"] as const)(
  "rows with loras have the plain implementation's bits in all %s builds",
  async (kind) => {
    expect.hasAssertions();
    await fc.assert(
      fc.asyncProperty(
        modelShape,
        sequencesShape,
        fc.constantFrom(...KV_PRECISIONS),
        async (model, shape, kvPrecision) => checkCase(model, shape, kind, kvPrecision),
      ),
      { numRuns: RUNS_LONG_TESTS ? 8 : 4 },
    );
    await fc.assert(
      fc.asyncProperty(
        mixtureModelShape,
        sequencesShape,
        fc.constantFrom(...KV_PRECISIONS),
        async (model, shape, kvPrecision) => checkCase(model, shape, kind, kvPrecision),
      ),
      { numRuns: RUNS_LONG_TESTS ? 4 : 2 },
    );
  },
);

test.each(["native", "wasm"] as const)("inputs of several parts have them in all %s builds", async (kind) => {
  expect.hasAssertions();
  await checkCase(SHAPE, { seed: 4, lengths: [21, 9, 3], sharedPages: 0 }, kind, "int8");
});

test.each(["native", "wasm"] as const)(
  "a %s kernel refuses loras that do not fit, and goes on with those before",
  async (kernel) => {
    const { plain, description } = randomModel(SHAPE);
    const opened = openKernel(await packedBytes(description), { threads: 1, maxRows: 8, maxPositions: 64 }, { kernel });
    const lora = await packed(randomLora(seededRandom(1), plain));
    const place = (slot: number, bytes: Uint8Array | undefined) => () => opened.placeLora(slot, bytes);
    opened.placeLora(3, lora);
    expect(place(-1, lora)).toThrow("a lora's slot");
    expect(place(65_536, lora)).toThrow("a lora's slot");
    expect(place(0, lora.subarray(0, 100))).toThrow("a lora's length");
    expect(place(0, lora.subarray(0, lora.length - 64))).toThrow("a tensor leaves the file");
    for (const [word, reason] of [
      [0, "version"],
      [1, "version"],
      [2, "layers"],
      [3, "format"],
    ] as const) {
      const damaged = pageMemory(lora.length);
      damaged.set(lora);
      new Int32Array(damaged.buffer, 0, 4)[word] = 99;
      expect(place(0, damaged)).toThrow(`a lora's ${reason}`);
    }
    opened.placeLora(3, undefined);
    opened.placeLora(9, undefined);
    await opened.close();
  },
);

test.each(["native", "wasm"] as const)(
  "a %s kernel refuses each part of a step whose lora was removed, and runs it when it is there again",
  async (kind) => {
    const { plain, description } = SMALL_EXPERTS;
    const kernel = openKernel(await packedBytes(description), SMALL_SIZES, { kernel: kind });
    setAllAngles(kernel, plain);
    const lora = randomLora(seededRandom(3), plain);
    const request = SMALL_REQUEST.slice();
    const [numRows = 0] = request;
    // All rows have the lora of slot 0.
    request.fill(0, 6 + 2 * numRows, 6 + 3 * numRows);
    const pages = kernel.openPages(NUM_SMALL_PAGES, "fp16");
    const [expected, results] = [resultsOf(1), resultsOf(1)];
    expect(() => kernel.step(pages, request, results)).toThrow("a lora");
    kernel.placeLora(0, await packed(lora));
    kernel.step(pages, request, expected);
    kernel.placeLora(0, undefined);
    expect(() => kernel.step(pages, request, results)).toThrow("a lora's weights");
    expect(() => kernel.beginStep(pages, request, results)).toThrow("a lora's weights");
    kernel.placeLora(0, await packed(lora));
    kernel.beginStep(pages, request, results);
    kernel.runLayers(0, 1);
    kernel.placeLora(0, undefined);
    expect(() => kernel.runLayers(1, 2)).toThrow(RangeError);
    expect(() => kernel.endStep()).toThrow(RangeError);
    kernel.placeLora(0, await packed(lora));
    kernel.beginStep(pages, request, results);
    kernel.runLayers(0, 1);
    // Loras that no row of the step has come and go meanwhile.
    kernel.placeLora(1, await packed(randomLora(seededRandom(4), plain)));
    kernel.placeLora(1, undefined);
    kernel.runLayers(1, plain.layers.length);
    kernel.endStep();
    expect(results).toStrictEqual(expected);
    await kernel.close();
  },
);

test("a number that is not finite is refused with its tensor's name", async () => {
  const { plain } = randomModel(SHAPE);
  const a = memoryTensor(new Float32Array(plain.hiddenSize).fill(NaN), [1, plain.hiddenSize]);
  const head = { rank: 1, scale: 1, a, b: memoryTensor(new Float32Array(plain.vocabSize), [plain.vocabSize, 1]) };
  const expert = { layers: plain.layers.map(() => ({})), head };
  const pack = async (): Promise<void> => {
    for await (const piece of packLora(expert, "int8", () => ({}))) expect(piece.length).toBeGreaterThan(0);
  };
  await expect(pack()).rejects.toThrow("memory: tensor `tensor` holds NaN, which is not finite");
});
