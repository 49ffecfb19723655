import { join } from "node:path";
import { ModelRunner, type StepSequence } from "@readme-moe/engine";
import { KvCache, openModel } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import { plainLogits } from "../oracles/plain-decoder.ts";
import { fixture } from "../support/fixtures.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { largestDifference, runningModel, type RunningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe, type TinyOptions } from "../support/tiny-read-me.ts";

async function tinyModel(options: TinyOptions = {}): Promise<RunningModel> {
  const path = join(await temporaryFolder(), "model");
  await writeTinyReadMe(path, options);
  return runningModel(path);
}

function randomIds(random: () => number, length: number, limit = 96): number[] {
  return Array.from({ length }, () => randomInteger(random, limit));
}

describe("a mixture of experts, against a plain implementation", () => {
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
      const cache = new KvCache(runner.kvShape);
      const [result] = await runner.forward([{ cache, tokenIds, experts, logitsOf, wantsFullLogits: true }]);
      const plain = await plainLogits(model, tokenIds, experts);
      const expected = plain.flatMap((row) => Array.from(row));
      expect(largestDifference(result?.fullLogits ?? [], expected)).toBeLessThan(2e-4);
    }
  });
});

describe("a step", () => {
  test("gives each sequence the numbers that it gets alone, bit for bit, whoever its neighbours are", async () => {
    await using running = await tinyModel({ hasBias: true });
    const { runner } = running;
    const random = seededRandom(3);
    const makeSequences = (): StepSequence[] =>
      Array.from({ length: 12 }, (_, index) => {
        const length = index % 3 === 0 ? 1 : 1 + randomInteger(random, 90);
        const tokenIds = randomIds(random, length);
        const experts = randomIds(random, length, 3);
        return { cache: new KvCache(runner.kvShape), tokenIds, experts, logitsOf: [length - 1], wantsFullLogits: true };
      });
    const prompts = makeSequences();
    const together = await runner.forward(prompts, 5);
    const copies = prompts.map((prompt) => ({ ...prompt, cache: new KvCache(runner.kvShape) }));
    for (const [index, prompt] of copies.entries()) {
      expect(await runner.forward([prompt], 5)).toEqual([together[index]]);
    }
    // Then decoding: the pasts differ in length, the order is another, and a prompt joins.
    const next = prompts.map(({ cache }) => ({
      cache,
      tokenIds: randomIds(random, 1),
      experts: randomIds(random, 1, 3),
      logitsOf: [0],
      wantsFullLogits: true,
    }));
    const newcomer = { ...(makeSequences()[1] as StepSequence) };
    const mixed = await runner.forward([...next, newcomer].toReversed());
    for (const [index, step] of next.entries()) {
      const cache = copies[index]?.cache as KvCache;
      expect(await runner.forward([{ ...step, cache }])).toEqual([mixed[next.length - index]]);
    }
  });

  test("continues a past the same in chunks as in one piece", async () => {
    for (const options of [{}, { config: { model_type: "mistral", sliding_window: 7 } }]) {
      await using running = await tinyModel(options);
      const { runner } = running;
      const random = seededRandom(5);
      const tokenIds = randomIds(random, 150);
      const experts = randomIds(random, 150, 3);
      const whole = { cache: new KvCache(runner.kvShape), tokenIds, experts, logitsOf: [149], wantsFullLogits: true };
      const [expected] = await runner.forward([whole]);
      const cache = new KvCache(runner.kvShape);
      let last;
      for (let from = 0; from < 150;) {
        const to = Math.min(150, from + 1 + randomInteger(random, 40));
        const chunk = { cache, tokenIds: tokenIds.slice(from, to), experts: experts.slice(from, to) };
        [last] = await runner.forward([{ ...chunk, logitsOf: [to - from - 1], wantsFullLogits: true }]);
        from = to;
      }
      expect(largestDifference(last?.fullLogits ?? [], expected?.fullLogits ?? [])).toBeLessThan(1e-4);
    }
  });

  test("gives best tokens, log-sum-exp and targets that agree with the full logits", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const tokenIds = [4, 8, 15, 16, 23, 42];
    const targets = [8, 15, 16, 23, 42, 1];
    const step = { cache: new KvCache(runner.kvShape), tokenIds, experts: [0, 1, 2, 0, 1, 2], targets };
    const [result] = await runner.forward([{ ...step, logitsOf: [0, 1, 2, 3, 4, 5], wantsFullLogits: true }], 4);
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

  test("gives nothing to sequences that want no logits, and survives a step where nobody wants any", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const quiet = { cache: new KvCache(runner.kvShape), tokenIds: [1, 2], experts: [0, 0], logitsOf: [] };
    const [nothing] = await runner.forward([quiet]);
    expect(nothing?.candidateIds).toHaveLength(0);
    expect(quiet.cache.numTokens).toBe(2);
    const loud = { ...quiet, cache: new KvCache(runner.kvShape), logitsOf: [1], wantsFullLogits: true };
    const [alone] = await runner.forward([{ ...loud, cache: new KvCache(runner.kvShape) }]);
    const [silent, heard] = await runner.forward([{ ...quiet, cache: new KvCache(runner.kvShape) }, loud]);
    expect(silent?.fullLogits).toHaveLength(0);
    expect(heard).toEqual(alone);
    expect(await runner.forward([])).toEqual([]);
  });

  test("refuses bad input before anything runs", async () => {
    await using running = await tinyModel();
    const { runner } = running;
    const cache = new KvCache(runner.kvShape);
    const step = { cache, tokenIds: [1], experts: [0], logitsOf: [0] };
    await expect(runner.forward([{ ...step, tokenIds: [] }])).rejects.toThrow(RangeError);
    await expect(runner.forward([{ ...step, tokenIds: [96] }])).rejects.toThrow(/tokenIds\[0\].*from 0 to 95/);
    await expect(runner.forward([{ ...step, experts: [3] }])).rejects.toThrow(/experts\[0\].*from 0 to 2/);
    await expect(runner.forward([{ ...step, experts: [] }])).rejects.toThrow(RangeError);
    await expect(runner.forward([{ ...step, logitsOf: [1] }])).rejects.toThrow(RangeError);
    await expect(runner.forward([{ ...step, targets: [-1] }])).rejects.toThrow(RangeError);
    await expect(runner.forward([step], 97)).rejects.toThrow(/numCandidates/);
    await expect(runner.forward([step], 0)).rejects.toThrow(RangeError);
    const long = Array.from({ length: 257 }, () => 1);
    const tooLong = { ...step, tokenIds: long, experts: long.map(() => 0) };
    await expect(runner.forward([tooLong])).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
    expect(cache.numTokens).toBe(0);
    const model = await openModel(fixture("families/llama-tied"));
    await expect(ModelRunner.open(model, { threads: 0 })).rejects.toThrow(RangeError);
    await model.close();
  });
});
