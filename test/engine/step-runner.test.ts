import { join } from "node:path";
import { KernelRunner, type StepLogits, type StepSequence } from "@readme-moe/engine";
import { KEPT_LOGITS_ROWS, type KvMemory, type KvSlot } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { fixture } from "../support/fixtures.ts";
import { kvFor } from "../support/greedy.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference, runningModel, type RunningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe, type TinyOptions } from "../support/tiny-read-me.ts";

async function tinyModel(options: TinyOptions = {}): Promise<RunningModel> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path, options);
  return runningModel(path);
}

/** Opens KV memory for everything that a test runs. */
function largePool({ runner }: RunningModel): KvMemory {
  return kvFor(runner, 64 * 256);
}

/** Admits a slot with room for `numTokens` and for 64 more. */
function newSlot(pool: KvMemory, numTokens: number): KvSlot {
  return pool.admit(numTokens + 64) as KvSlot;
}

function randomIds(random: () => number, length: number, limit = 96): number[] {
  return Array.from({ length }, () => randomInteger(random, limit));
}

describe("a mixture of experts agrees with a plain implementation", () => {
  const variants: Readonly<Record<string, TinyOptions>> = {
    "with shared rows in some layers and sizes that differ per layer": {},
    "without shared rows, one size": { expertSizes: [32, 32], sharedSizes: [0, 0] },
    "with biases": { hasBias: true },
    "of one expert": { numExperts: 1 },
    "of nine experts": { numExperts: 9 },
    "of Mistral's family with a window": { config: { model_type: "mistral", sliding_window: 5 } },
    "with linear RoPE scaling": { config: { rope_scaling: { type: "linear", factor: 2.5 } } },
  };
  test.each(Object.entries(variants))("%s", async (_, options) => {
    await using running = await tinyModel(options);
    const { runner, model } = running;
    const random = seededRandom(11);
    for (const length of [1, 2, 13, 70]) {
      const tokenIds = randomIds(random, length);
      const experts = randomIds(random, length, model.experts.names.length);
      const logitsOf = tokenIds.map((_id, index) => index);
      const pool = kvFor(runner, length);
      const slot = pool.admit(length) as KvSlot;
      const [result] = await runner.forward(pool, [{ slot, tokenIds, experts, logitsOf, wantsFullLogits: true }]);
      const plain = await plainLogits(model, tokenIds, experts);
      const expected = plain.flatMap((row) => Array.from(row));
      expect(largestDifference(result?.fullLogits ?? [], expected)).toBeLessThan(2e-4);
    }
  });
});

/** Copies results, which later calls would overwrite. */
function copies(results: readonly StepLogits[]): readonly Omit<StepLogits, "readRow">[] {
  return results.map(({ candidateIds, candidateLogits, logSumExp, targetLogProbs, fullLogits }) =>
    structuredClone({ candidateIds, candidateLogits, logSumExp, targetLogProbs, fullLogits }),
  );
}

describe("a step", () => {
  test("keeps as many rows of logits as `keepsLogits` says, and no more", async () => {
    await using running = await tinyModel({ hasBias: true });
    const { runner } = running;
    for (const numRows of [KEPT_LOGITS_ROWS, KEPT_LOGITS_ROWS + 1]) {
      const pool = kvFor(runner, numRows);
      const slot = pool.admit(numRows) as KvSlot;
      const logitsOf = Array.from({ length: numRows }, (_, index) => index);
      const sequence = { slot, tokenIds: logitsOf, experts: logitsOf.map(() => 0), logitsOf };
      const [result] = await runner.forward(pool, [sequence]);
      const areKept = logitsOf.every((row) => result?.readRow?.(row) !== undefined);
      expect([numRows, areKept]).toEqual([numRows, runner.keepsLogits(numRows, numRows)]);
      expect(areKept).toBe(numRows === KEPT_LOGITS_ROWS);
    }
  });

  test("gives each sequence the same bits as alone, whatever the other sequences", async () => {
    await using running = await tinyModel({ hasBias: true });
    const { runner } = running;
    const random = seededRandom(3);
    const pool = largePool(running);
    const makeSequences = (): StepSequence[] =>
      Array.from({ length: 12 }, (_, index) => {
        const length = index % 3 === 0 ? 1 : 1 + randomInteger(random, 90);
        const tokenIds = randomIds(random, length);
        const experts = randomIds(random, length, 3);
        return { slot: newSlot(pool, length), tokenIds, experts, logitsOf: [length - 1], wantsFullLogits: true };
      });
    const prompts = makeSequences();
    // The next call overwrites full logits, so they are copied.
    const together = copies(await runner.forward(pool, prompts, 5));
    // Each alone in a pool of its own.
    const alone = prompts.map((prompt) => {
      const own = kvFor(runner, 256);
      return { pool: own, sequence: { ...prompt, slot: newSlot(own, prompt.tokenIds.length) } };
    });
    for (const [index, one] of alone.entries()) {
      expect(copies(await runner.forward(one.pool, [one.sequence], 5))).toEqual([together[index]]);
    }
    // Then decoding: pasts of different lengths in another order, with idle slots and new prompts.
    const next = prompts.map(({ slot }) => ({
      slot,
      tokenIds: randomIds(random, 1),
      experts: randomIds(random, 1, 3),
      logitsOf: [0],
      wantsFullLogits: true,
    }));
    const newcomers = makeSequences().slice(1, 3);
    const running2 = next.filter((_, index) => index !== 4 && index !== 9);
    const mixed = copies(await runner.forward(pool, [...running2, ...newcomers].toReversed()));
    const others = next.filter((_, index) => index === 4 || index === 9);
    const plain = copies(await runner.forward(pool, others));
    for (const [index, step] of next.entries()) {
      const { pool: own, sequence } = alone[index] as (typeof alone)[number];
      const expected = copies(await runner.forward(own, [{ ...step, slot: sequence.slot }]));
      const place = running2.indexOf(step);
      const actual = place >= 0 ? mixed[mixed.length - 1 - place] : plain[index === 4 ? 0 : 1];
      expect([actual]).toEqual(expected);
    }
  });

  test("gives the same bits in chunks as in one piece", async () => {
    for (const options of [{}, { config: { model_type: "mistral", sliding_window: 7 } }]) {
      await using running = await tinyModel(options);
      const { runner } = running;
      const random = seededRandom(5);
      const tokenIds = randomIds(random, 150);
      const experts = randomIds(random, 150, 3);
      const pool = largePool(running);
      const whole = { slot: newSlot(pool, 150), tokenIds, experts, logitsOf: [149], wantsFullLogits: true };
      const expected = (await runner.forward(pool, [whole]))[0]?.fullLogits.slice() ?? [];
      const slot = newSlot(pool, 150);
      let last;
      for (let from = 0; from < 150;) {
        const to = Math.min(150, from + 1 + randomInteger(random, 40));
        const chunk = { slot, tokenIds: tokenIds.slice(from, to), experts: experts.slice(from, to) };
        [last] = await runner.forward(pool, [{ ...chunk, logitsOf: [to - from - 1], wantsFullLogits: true }]);
        from = to;
      }
      expect(largestDifference(last?.fullLogits ?? [], expected)).toBeLessThan(1e-4);
    }
  });

  test("returns best tokens, log-sum-exp and targets that agree with the full logits", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const tokenIds = [4, 8, 15, 16, 23, 42];
    const targets = [8, 15, 16, 23, 42, 1];
    const pool = kvFor(runner, 64);
    const step = { slot: pool.admit(6) as KvSlot, tokenIds, experts: [0, 1, 2, 0, 1, 2], targets };
    const [result] = await runner.forward(pool, [{ ...step, logitsOf: [0, 1, 2, 3, 4, 5], wantsFullLogits: true }], 4);
    if (!result) throw new Error("no result");
    for (let row = 0; row < 6; row++) {
      const logits = Array.from(result.fullLogits.subarray(row * 96, (row + 1) * 96));
      const order = logits.map((_, id) => id).toSorted((a, b) => (logits[b] as number) - (logits[a] as number));
      expect(Array.from(result.candidateIds.subarray(row * 4, row * 4 + 4))).toEqual(order.slice(0, 4));
      const logSumExp = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
      expect(result.logSumExp[row]).toBeCloseTo(logSumExp, 4);
      expect(result.targetLogProbs[row]).toBeCloseTo((logits[targets[row] as number] as number) - logSumExp, 4);
    }
  });

  test("returns nothing for sequences that want no logits, also if no sequence wants any", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const pool = largePool(running);
    const quiet = () => ({ slot: newSlot(pool, 2), tokenIds: [1, 2], experts: [0, 0], logitsOf: [] });
    const loud = () => ({ ...quiet(), logitsOf: [1], wantsFullLogits: true });
    const first = quiet();
    const [nothing] = await runner.forward(pool, [first]);
    expect(nothing?.candidateIds).toHaveLength(0);
    expect(first.slot.numTokens).toBe(2);
    const alone = copies(await runner.forward(pool, [loud()]));
    const [silent, heard] = copies(await runner.forward(pool, [quiet(), loud()]));
    expect(silent?.fullLogits).toHaveLength(0);
    expect([heard]).toEqual(alone);
    expect(await runner.forward(pool, [])).toEqual([]);
  });

  test("gives each sequence its own full logits if a step takes several calls", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const pool = largePool(running);
    // Each of these prompts takes a call of its own.
    const prompts = [3, 5, 8].map((first) => ({
      slot: newSlot(pool, 6),
      tokenIds: [first, first + 1, first + 2],
      experts: [0, 1, 2],
      logitsOf: [1, 2],
      wantsFullLogits: true,
    }));
    await runner.forward(pool, prompts);
    const next = prompts.map((prompt, index) => ({ ...prompt, wantsFullLogits: index !== 1 }));
    const results = await runner.forward(pool, next, 1);
    expect(results.map(({ fullLogits }) => fullLogits.length)).toEqual([192, 0, 192]);
    for (const { fullLogits, candidateIds, candidateLogits } of [results[0], results[2]] as StepLogits[]) {
      for (const row of [0, 1]) {
        const logits = fullLogits.subarray(row * 96, (row + 1) * 96);
        expect(Math.max(...logits)).toBe(candidateLogits[row]);
        expect(logits.indexOf(candidateLogits[row] as number)).toBe(candidateIds[row]);
      }
    }
  });

  test("rejects invalid input before anything runs", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const pool = kvFor(runner, 320);
    const slot = pool.admit(257) as KvSlot;
    const step = { slot, tokenIds: [1], experts: [0], logitsOf: [0] };
    await expect(runner.forward(pool, [{ ...step, tokenIds: [] }])).rejects.toThrow(RangeError);
    await expect(runner.forward(pool, [{ ...step, tokenIds: [96] }])).rejects.toThrow(new RangeError("a token"));
    await expect(runner.forward(pool, [{ ...step, experts: [3] }])).rejects.toThrow(new RangeError("an expert"));
    await expect(runner.forward(pool, [{ ...step, experts: [] }])).rejects.toThrow(RangeError);
    await expect(runner.forward(pool, [{ ...step, logitsOf: [1] }])).rejects.toThrow(RangeError);
    await expect(runner.forward(pool, [{ ...step, targets: [-1] }])).rejects.toThrow(RangeError);
    await expect(runner.forward(pool, [step], 97)).rejects.toThrow(/numCandidates/);
    await expect(runner.forward(pool, [step], 0)).rejects.toThrow(RangeError);
    const long = Array.from({ length: 257 }, () => 1);
    const tooLong = { ...step, tokenIds: long, experts: long.map(() => 0) };
    await expect(runner.forward(pool, [tooLong])).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    expect(slot.numTokens).toBe(0);
    const model = await openModel(fixture("families/llama-tied"));
    await expect(KernelRunner.open(model, { threads: 0 })).rejects.toThrow(RangeError);
    await model.close();
  });
});
