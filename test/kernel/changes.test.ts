// Low-rank changes: every build of the kernel gives the bits of the plain implementation.

import {
  changeBytes,
  availableInstructions,
  openKernel,
  KV_PRECISIONS,
  packChange,
  type Kernel,
  type KernelKind,
  type KvPrecision,
} from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { plainRows } from "../oracles/plain-kernel.ts";
import { memoryTensor } from "../support/kernel/memory-store.ts";
import { mixtureModelShape, modelShape, type ModelShape } from "../support/kernel/model-shape.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { randomChange, type TestChange } from "../support/kernel/random-change.ts";
import { MAX_POSITIONS, randomModel } from "../support/kernel/random-model.ts";
import {
  changesOf,
  expertsOf,
  randomSequences,
  sequencesShape,
  type SequencesShape,
} from "../support/kernel/random-steps.ts";
import { replay } from "../support/kernel/replay.ts";
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

/** Packs a change into memory that begins on a page. */
async function packed({ plain, packed: expert }: TestChange): Promise<Uint8Array> {
  const bytes = pageMemory(changeBytes(expert, plain.precision));
  let end = 0;
  for await (const piece of packChange(expert, plain.precision, () => ({}))) {
    bytes.set(piece, end);
    end += piece.length;
  }
  expect(end).toBe(bytes.length);
  return bytes;
}

async function placeAll(kernel: Kernel, changes: readonly TestChange[]): Promise<void> {
  for (const [slot, change] of changes.entries()) kernel.placeChange(slot, await packed(change));
}

async function checkCase(
  model: ModelShape,
  shape: SequencesShape,
  kind: KernelKind,
  kvPrecision: KvPrecision,
): Promise<void> {
  const { plain, description } = randomModel(model);
  const random = seededRandom(model.seed ^ shape.seed);
  const changes = Array.from({ length: 1 + randomInteger(random, 4) }, () => randomChange(random, plain));
  const sequences = randomSequences(shape, model.vocabSize);
  const rows = sequences.map(({ tokenIds }) => {
    const experts = expertsOf(tokenIds, model.numExperts);
    const slots = changesOf(tokenIds, changes.length);
    const tokens = tokenIds.map((id, i) => ({ id, expert: experts[i] ?? 0, change: changes[slots[i] ?? -1]?.plain }));
    return plainRows(plain, tokens, { kvPrecision, isFused: kind === "native" });
  });
  const bytes = await packedBytes(description);
  for (const instructions of availableInstructions(kind)) {
    const sizes = { threads: 1 + randomInteger(random, 4), maxRows: MAX_ROWS, maxPositions: MAX_POSITIONS };
    const kernel = openKernel(bytes, sizes, { kernel: kind, instructions });
    try {
      setAllAngles(kernel, plain);
      await placeAll(kernel, changes);
      const expected = {
        rows,
        vocabSize: model.vocabSize,
        numLogits: model.numLogits ?? model.vocabSize,
        numExperts: model.numExperts,
        numChanges: changes.length,
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
  "rows with changes have the plain implementation's bits in all %s builds",
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
  "a %s kernel refuses changes that do not fit, and goes on with those before",
  async (kernel) => {
    const { plain, description } = randomModel(SHAPE);
    const opened = openKernel(await packedBytes(description), { threads: 1, maxRows: 8, maxPositions: 64 }, { kernel });
    const change = await packed(randomChange(seededRandom(1), plain));
    const place = (slot: number, bytes: Uint8Array | undefined) => () => opened.placeChange(slot, bytes);
    opened.placeChange(3, change);
    expect(place(-1, change)).toThrow("a change's slot");
    expect(place(65_536, change)).toThrow("a change's slot");
    expect(place(0, change.subarray(0, 100))).toThrow("a change's length");
    expect(place(0, change.subarray(0, change.length - 64))).toThrow("a tensor leaves the file");
    for (const [word, reason] of [
      [0, "version"],
      [1, "version"],
      [2, "layers"],
      [3, "format"],
    ] as const) {
      const damaged = pageMemory(change.length);
      damaged.set(change);
      new Int32Array(damaged.buffer, 0, 4)[word] = 99;
      expect(place(0, damaged)).toThrow(`a change's ${reason}`);
    }
    opened.placeChange(3, undefined);
    opened.placeChange(9, undefined);
    await opened.close();
  },
);

test("a number that is not finite is refused with its tensor's name", async () => {
  const { plain } = randomModel(SHAPE);
  const a = memoryTensor(new Float32Array(plain.hiddenSize).fill(NaN), [1, plain.hiddenSize]);
  const head = { rank: 1, scale: 1, a, b: memoryTensor(new Float32Array(plain.vocabSize), [plain.vocabSize, 1]) };
  const expert = { layers: plain.layers.map(() => ({})), head };
  const pack = async (): Promise<void> => {
    for await (const piece of packChange(expert, "int8", () => ({}))) expect(piece.length).toBeGreaterThan(0);
  };
  await expect(pack()).rejects.toThrow("memory: tensor `tensor` holds NaN, which is not finite");
});
