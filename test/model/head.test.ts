// What a step says about next tokens, against sums in float64.

import { GraphBuilder, GraphSession, logitOutputs, memoryGraph } from "@readme-moe/model";
import { expect, test } from "vitest";
import { logSumExpBlock, logSumExpError } from "../../packages/core/src/sampling/logits-row.ts";
import { randomNormal, seededRandom } from "../support/random.ts";

async function head(vocabSize: number) {
  const g = new GraphBuilder("head");
  logitOutputs(g, g.input("logits", "float32", ["rows", vocabSize]), vocabSize);
  const session = await GraphSession.load(await memoryGraph(g.build()), { threads: 2 });
  return {
    dispose: () => session.dispose(),
    async logSumExp(logits: Float32Array): Promise<Float32Array> {
      const numRows = logits.length / vocabSize;
      const outputs = await session.run({
        logits: { data: logits, dims: [numRows, vocabSize] },
        num_candidates: { data: BigInt64Array.of(1n), dims: [1] },
        targets: { data: new BigInt64Array(numRows), dims: [numRows] },
        full_rows: { data: new BigInt64Array(0), dims: [0] },
      });
      return outputs["log_sum_exp"]?.data as Float32Array;
    },
  };
}

function exactly(logits: Float32Array): number {
  const best = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  return best + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - best), 0));
}

// The last two have no block near their root: 2 * 24,593 and a prime.
test.each([49_152, 32_000, 151_936, 1000, 96, 49_186, 1009])(
  "log-sum-exp of %i logits is as exact as it is said to be",
  { timeout: 60_000 },
  async (vocabSize) => {
    const graph = await head(vocabSize);
    const random = seededRandom(vocabSize);
    const spreads = [0, 0.01, 1, 4, 12, 60];
    const rows = Float32Array.from({ length: spreads.length * vocabSize }, (_, index) => {
      const spread = spreads[Math.floor(index / vocabSize)] as number;
      return 20 * Math.sign(random() - 0.5) * (spread === 0 ? 0 : 1) + spread * randomNormal(random);
    });
    const together = await graph.logSumExp(rows);
    for (const [row] of spreads.entries()) {
      const logits = rows.subarray(row * vocabSize, (row + 1) * vocabSize);
      const expected = exactly(logits);
      expect(Math.abs((together[row] as number) - expected)).toBeLessThan(logSumExpError(expected, vocabSize));
      // Neighbours change no bit of it.
      expect((await graph.logSumExp(logits.slice()))[0]).toBe(together[row]);
    }
    await graph.dispose();
  },
);

test("blocks divide a row, and are no longer than they need to be", () => {
  for (let size = 1; size < 3000; size++) {
    const block = logSumExpBlock(size);
    expect(size % block).toBe(0);
    expect(block).toBeLessThanOrEqual(Math.ceil(Math.sqrt(size)));
  }
  expect(logSumExpBlock(49_152)).toBe(192);
});

test("what is no number, or infinite, shows in the log-sum-exp", async () => {
  const graph = await head(1000);
  const rows = new Float32Array(4000).map((_, index) => index % 7);
  rows[3] = Number.NaN;
  rows[1500] = Infinity;
  rows.fill(-Infinity, 2000, 3000);
  const sums = await graph.logSumExp(rows);
  expect(Array.from(sums.subarray(0, 3), Number.isFinite)).toEqual([false, false, false]);
  expect(Number.isFinite(sums[3])).toBe(true);
  await graph.dispose();
});
