// Rows in which something is no number: they show it, and nobody else notices.

import { availableInstructions, encodeStep, type KernelKind, openKernel, type StepRows } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { packTable } from "../../packages/kernel/src/pack/pack-tables.ts";
import { memoryTensor } from "../support/kernel/memory-store.ts";
import { packedBytes, setAllAngles } from "../support/kernel/packed-bytes.ts";
import { randomFloats } from "../support/kernel/random-weights.ts";
import { NUM_SMALL_PAGES, SMALL_LIMITS, SMALL_MODEL, SMALL_SHAPE, SMALL_SIZES } from "../support/kernel/small-model.ts";
import { seededRandom } from "../support/random.ts";

const { vocabSize, hiddenSize } = SMALL_SHAPE;
/** Tokens whose embedding has something in it that is no number. */
const [NAN, INFINITE] = [3, 4];

/** The small model with an embedding of those two tokens. */
async function brokenBytes(): Promise<Uint8Array> {
  const table = randomFloats(seededRandom(1), vocabSize * hiddenSize, 1);
  table[NAN * hiddenSize + 5] = NaN;
  table[INFINITE * hiddenSize + 5] = Infinity;
  const embedding = packTable(memoryTensor(table, [vocabSize, hiddenSize]), "float-table");
  return packedBytes({ ...SMALL_MODEL.description, embedding });
}

const builds = (["native", "wasm"] as const).flatMap((kernel) =>
  availableInstructions(kernel).map((instructions) => ({ kernel, instructions })),
);

test.each<{ kernel: KernelKind; instructions: string }>(builds)(
  "rows that are no numbers show it and change no other row ($kernel, $instructions)",
  async ({ kernel, instructions }) => {
    const opened = openKernel(await brokenBytes(), SMALL_SIZES, { kernel, instructions });
    setAllAngles(opened, SMALL_MODEL.plain);
    const pages = opened.openPages(NUM_SMALL_PAGES, true);
    const run = (sequences: readonly StepRows[]) => {
      const numWanted = sequences.length;
      const results = {
        candidateIds: new Int32Array(2 * numWanted),
        logits: new Float32Array(3 * numWanted),
        sums: new Float64Array(2 * numWanted),
        fullLogits: new Float32Array(0),
      };
      opened.step(pages, encodeStep(sequences, 2, SMALL_LIMITS), results);
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
