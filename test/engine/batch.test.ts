// Batches: what a schedule becomes, and how a batch fails.

import { ReadMeError, type ScheduledSequence } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { batchItems, expertsOf, forwardBatch } from "../../packages/engine/src/batch.ts";
import type { Sequence } from "../../packages/engine/src/sequence.ts";
import { CoreBench } from "../support/core-bench.ts";
import { runningTinyModel } from "../support/running-tiny-model.ts";

let running: Awaited<ReturnType<typeof runningTinyModel>>;
let tokenizer: Tokenizer;
beforeAll(async () => {
  running = await runningTinyModel();
  ({ tokenizer } = running);
});
afterAll(() => running[Symbol.asyncDispose]());

/** Opens a core with two sequences, of 3 and 4 known tokens, whose prompts have run. */
async function twoRunning(): Promise<CoreBench> {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.add("a", [1, 2], { maxTokens: 9, temperature: 0 });
  bench.add("b", [3, 4, 5], { maxTokens: 9, temperature: 0 });
  await bench.core.step();
  return bench;
}

describe("a schedule", () => {
  test("becomes items, the last of a sequence where all its known tokens run", async () => {
    const { running: sequences } = (await twoRunning()).admission;
    const [a, b] = [sequences.get("a"), sequences.get("b")];
    const items = batchItems([{ id: "b", numTokens: 1 }], sequences);
    expect(items).toEqual([{ sequence: b, numTokens: 1, isLast: true }]);
    a?.tokenIds.push(7);
    expect(batchItems([{ id: "a", numTokens: 1 }], sequences)[0]?.isLast).toBe(false);
    expect(batchItems([{ id: "a", numTokens: 2 }], sequences)[0]?.isLast).toBe(true);
  });

  test.each<[ScheduledSequence, string]>([
    [{ id: "c", numTokens: 1 }, "Expected the scheduler to choose from sequences that run, got `c`"],
    [{ id: "a", numTokens: 0 }, "Expected the scheduler to choose tokens that a has, got 0"],
    [{ id: "a", numTokens: 2 }, "Expected the scheduler to choose tokens that a has, got 2"],
  ])("with %o is refused", async (scheduled, message) => {
    const { running: sequences } = (await twoRunning()).admission;
    expect(() => batchItems([scheduled], sequences)).toThrow(new RangeError(message));
  });

  test("needs the experts of the tokens that run, and no others", async () => {
    const { running: sequences } = (await twoRunning()).admission;
    const a = sequences.get("a") as Sequence;
    a.experts.splice(0, a.experts.length, 0, 0, 2, 1);
    a.tokenIds.push(7);
    expect(expertsOf([{ sequence: a, numTokens: 1, isLast: false }])).toEqual(new Set([2]));
    expect(expertsOf([{ sequence: a, numTokens: 2, isLast: true }])).toEqual(new Set([2, 1]));
    expect(expertsOf([])).toEqual(new Set());
  });
});

/** Runs the next tokens of both sequences with a model that fails where `fails` says. */
async function failing(fails: (ids: readonly number[]) => unknown) {
  const { admission } = await twoRunning();
  const batch = batchItems(
    ["a", "b"].map((id) => ({ id, numTokens: 1 })),
    admission.running,
  );
  const failures: [string, unknown][] = [];
  let numRuns = 0;
  const { runner } = running;
  const broken = {
    model: runner.model,
    expertNames: runner.expertNames,
    openKv: runner.openKv.bind(runner),
    keepsLogits: runner.keepsLogits.bind(runner),
    dispose: runner.dispose.bind(runner),
    forward: async (...[kv, sequences, numCandidates]: Parameters<typeof runner.forward>) => {
      numRuns++;
      const results = await runner.forward(kv, sequences, numCandidates);
      const error = fails(sequences.map(({ slot }) => slot.numTokens));
      // The tokens have run by then, as they have in the layers before one that cannot be read.
      if (error !== undefined) throw error;
      return results;
    },
  };
  const { logits, ran } = await forwardBatch(broken, admission.kv, batch, ({ id }, error) => {
    failures.push([id, error]);
  });
  const computed = batch.map(({ sequence }) => sequence.numComputedTokens);
  return {
    logits: logits.map(({ item }) => item.sequence.id),
    ran: ran.map(({ sequence }) => sequence.id),
    failures,
    numRuns,
    computed,
  };
}

describe("a batch that cannot run", () => {
  test("fails as a whole, unless weights of an expert cannot be read", async () => {
    const error = new Error("broken");
    const failures = [
      ["a", error],
      ["b", error],
    ];
    expect(await failing(() => error)).toMatchObject({ logits: [], ran: [], failures, numRuns: 1 });
    const other = new ReadMeError("ERR_RUNTIME", "broken");
    expect((await failing(() => other)).numRuns).toBe(1);
  });

  test("runs one by one if an expert cannot be read, and only those that need it fail", async () => {
    const error = new ReadMeError("ERR_FILE_UNREADABLE", "expert 2 cannot be read");
    // "a" has 3 tokens after the step.
    const outcome = await failing((lengths) => (lengths.includes(3) ? error : undefined));
    expect(outcome).toMatchObject({ logits: ["b"], ran: ["b"], failures: [["a", error]], numRuns: 3 });
    expect(outcome.computed[1]).toBe(4);
  });

  test("runs as a whole where nothing fails", async () => {
    const outcome = await failing(() => undefined);
    expect(outcome).toEqual({ logits: ["a", "b"], ran: ["a", "b"], failures: [], numRuns: 1, computed: [3, 4] });
  });
});
