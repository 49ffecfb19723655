// Compares losses with plain loops over the full logits of an independent implementation.

import { join } from "node:path";
import {
  evaluate,
  evaluatePerExpert,
  evaluateSequences,
  passagesOf,
  type Passage,
  tokenSequences,
} from "@readme-moe/engine/evaluation";
import type { Tokenizer } from "@readme-moe/model";
import { fixedRouter, routeStatistics, ruleRouter } from "@readme-moe/router";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { slidingWindows } from "../../packages/engine/src/evaluation/passages.ts";
import { scorePassages } from "../../packages/engine/src/evaluation/score-passages.ts";
import { plainLogProbs } from "../oracles/plain-log-probs.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { routeOf, writeReadingModel } from "../support/reading-model.ts";
import { largestDifference, runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { writeTinyReadMe } from "../support/tiny-read-me.ts";

const NUM_EXPERTS = 3;

let running: RunningModel; // 96 tokens, no tokenizer
let reading: RunningModel; // with the pocket model's tokenizer
let tokenizer: Tokenizer;

beforeAll(async () => {
  const folder = await persistentFolder();
  await writeTinyReadMe(join(folder, "tiny"), { config: { max_position_embeddings: 1200 } });
  await writeReadingModel(join(folder, "reading"), { seed: 2 });
  running = await runningModel(join(folder, "tiny"));
  reading = await runningModel(join(folder, "reading"));
  ({ tokenizer } = await reading.model.loadText());
});
afterAll(async () => {
  await running[Symbol.asyncDispose]();
  await reading[Symbol.asyncDispose]();
});

function randomTokens(random: () => number, length: number): number[] {
  return Array.from({ length }, () => randomInteger(random, 96));
}

function passage(tokenIds: readonly number[], firstTarget: number): Passage {
  return { tokenIds: Int32Array.from(tokenIds), firstTarget };
}

describe("scores of passages", () => {
  test("agree with a plain decoder, alone and beside other passages", async () => {
    const random = seededRandom(5);
    const passages = [2, 3, 17, 64, 65, 130].map((length) => {
      return passage(randomTokens(random, length), 1 + randomInteger(random, length - 1));
    });
    const groups = passages.map((one) => [one]);
    const together = await scorePassages(running.runner, running.router, groups);
    for (const [index, { tokenIds, firstTarget }] of passages.entries()) {
      const ids = Array.from(tokenIds);
      const experts = await routeOf(running, ids.slice(0, -1));
      expect(together[index]?.experts).toEqual(experts);
      const expected = await plainLogProbs(running.model, ids, experts, firstTarget);
      expect(largestDifference(together[index]?.logProbs ?? [], expected)).toBeLessThan(1e-4);
    }
    const alone = await Promise.all(groups.map((group) => scorePassages(running.runner, running.router, [group])));
    expect(together).toEqual(alone.flat());
  });

  test("are the same if a group's beginning runs once", async () => {
    const random = seededRandom(6);
    for (const [common, tails] of [
      [100, [1, 1, 1, 1]], // only the predicted token differs
      [90, [3, 1, 12]],
      [70, [0, 5, 2]], // one ends where the others go on
      [80, [7]],
      [5, [4, 6]], // not worth it
      [0, [3, 3]],
    ] as const) {
      const beginning = randomTokens(random, common + 1);
      const passages = tails.map((tail) => {
        const tokenIds = [...beginning, ...randomTokens(random, tail)];
        return passage(tokenIds, 1 + randomInteger(random, tokenIds.length - 1));
      });
      const others = [passage(randomTokens(random, 9), 1)];
      const scores = await scorePassages(running.runner, running.router, [others, passages, [], others]);
      expect(scores[passages.length + 1]?.logProbs).toEqual(scores[0]?.logProbs);
      for (const [index, { tokenIds, firstTarget }] of passages.entries()) {
        const ids = Array.from(tokenIds);
        const experts = await routeOf(running, ids.slice(0, -1));
        const expected = await plainLogProbs(running.model, ids, experts, firstTarget);
        expect(largestDifference(scores[index + 1]?.logProbs ?? [], expected), `${common} ${index}`).toBeLessThan(1e-4);
      }
    }
  });

  test("are right if a passage takes several runs", async () => {
    const random = seededRandom(7);
    const rule = (id: number, position: number): number => (id + position) % NUM_EXPERTS;
    const router = ruleRouter(NUM_EXPERTS, rule);
    const beginning = randomTokens(random, 700);
    const passages = [passage([...beginning, ...randomTokens(random, 400)], 505), passage([...beginning, 1, 2], 1)];
    const short = [passage(randomTokens(random, 20), 3), passage(randomTokens(random, 8), 1)];
    const [before, other, ...scores] = await scorePassages(running.runner, router, [short, passages, short]);
    expect(scores.slice(2)).toEqual([before, other]);
    for (const [index, { tokenIds, firstTarget }] of passages.entries()) {
      const ids = Array.from(tokenIds);
      const expected = await plainLogProbs(running.model, ids, ids.slice(0, -1).map(rule), firstTarget);
      expect(largestDifference(scores[index]?.logProbs ?? [], expected)).toBeLessThan(2e-4);
    }
  });

  test("reject a passage that predicts nothing or its first token", async () => {
    for (const [one, message] of [
      [passage([1, 2], 2), /`firstTarget` to be from 1 to 1/],
      [passage([1, 2], 0), /`firstTarget`/],
      [passage([1], 1), /`firstTarget`/],
    ] as const) {
      await expect(scorePassages(running.runner, running.router, [[one]])).rejects.toThrow(message);
    }
  });

  test("end with the signal, and report progress", async () => {
    const abort = new AbortController();
    const sequences = [1, 2, 3].map(() => Int32Array.from(randomTokens(seededRandom(8), 300)));
    const seen: number[] = [];
    const router = fixedRouter(NUM_EXPERTS, 1);
    const onProgress = ({ sequences: done, of }: { sequences: number; of: number }): void => {
      expect(of).toBe(3);
      seen.push(done);
      if (done === 2) abort.abort(new Error("enough"));
    };
    const options = { signal: abort.signal, onProgress };
    await expect(evaluateSequences({ runner: running.runner, router }, sequences, options)).rejects.toThrow("enough");
    expect(seen).toEqual([1, 2]);
  });
});

const DOCUMENTS = [
  "The ship was lost at sea. ".repeat(9),
  "A cat.",
  "The captain said nothing, and sailed on. ".repeat(5),
];

describe("a text's loss", () => {
  test("agrees with a plain loop over its sequences", async () => {
    const options = { sequenceLength: 24, maxSequences: 4 };
    const result = await evaluate(reading, tokenizer, DOCUMENTS, options);
    let [sum, tokens] = [0, 0];
    for (const sequence of tokenSequences(reading.model, tokenizer, DOCUMENTS, options)) {
      const ids = Array.from(sequence);
      for (const logProb of await plainLogProbs(reading.model, ids, await routeOf(reading, ids), 1)) {
        sum -= logProb;
        tokens++;
      }
    }
    expect(result).toMatchObject({ tokens, sequences: 4, perplexity: Math.exp(result.loss) });
    expect(tokens).toBe(4 * 23);
    expect(result.loss).toBeCloseTo(sum / tokens, 4);
  });

  test("agrees with a plain loop over its tokens with a sliding window", async () => {
    const [length, stride] = [24, 7];
    const joined = DOCUMENTS.flatMap((text) => [...tokenizer.encode(text, { addSpecialTokens: false }), 0]);
    const options = { sequenceLength: length, stride, maxSequences: 1000 };
    const result = await evaluate(reading, tokenizer, DOCUMENTS, options);
    let sum = 0;
    for (let start = 0, known = 1; known < joined.length; start += stride) {
      const window = joined.slice(start, start + length);
      const logProbs = await plainLogProbs(reading.model, window, await routeOf(reading, window), known - start);
      for (const logProb of logProbs) sum -= logProb;
      known = Math.min(start + length, joined.length);
    }
    expect(result.tokens).toBe(joined.length - 1);
    expect(result.loss).toBeCloseTo(sum / (joined.length - 1), 4);
    const windows = slidingWindows(Int32Array.from(joined), length, stride);
    for (let most = 1; most <= windows.length + 1; most++) {
      const first = passagesOf(reading.model, tokenizer, DOCUMENTS, { ...options, maxSequences: most });
      expect(first).toEqual(windows.slice(0, most));
    }
  });

  test("rejects a window that would leave a token without context", () => {
    const options = { sequenceLength: 24 };
    for (const stride of [0, 24]) {
      const wrong = { ...options, stride };
      expect(() => passagesOf(reading.model, tokenizer, DOCUMENTS, wrong)).toThrow(/`stride` to be from 1 to 23/);
    }
    expect(passagesOf(reading.model, tokenizer, DOCUMENTS, { ...options, stride: 23 }).length).toBeGreaterThan(1);
  });
});

test("windows predict every token but the first once, with the given context", () => {
  const random = seededRandom(11);
  for (let round = 0; round < 200; round++) {
    const tokens = Int32Array.from({ length: 2 + randomInteger(random, 90) }, (_, index) => index);
    const length = 2 + randomInteger(random, 30);
    const stride = 1 + randomInteger(random, length - 1);
    const predicted: number[] = [];
    for (const { tokenIds, firstTarget } of slidingWindows(tokens, length, stride)) {
      expect(tokenIds.length).toBeLessThanOrEqual(length);
      const start = tokenIds[0] as number;
      expect(Array.from(tokenIds)).toEqual(Array.from(tokens.subarray(start, start + tokenIds.length)));
      for (const [index, token] of tokenIds.entries()) {
        if (index < firstTarget) continue;
        predicted.push(token);
        expect(index).toBeGreaterThanOrEqual(Math.min(token, length - stride));
      }
    }
    expect(predicted).toEqual(Array.from(tokens.subarray(1)));
  }
});

describe("evaluatePerExpert", () => {
  test("has the losses of fixed routers, and compares the router with the best", async () => {
    const options = { sequenceLength: 32, maxSequences: 3 };
    const passages = passagesOf(reading.model, tokenizer, DOCUMENTS, options);
    const seen: string[] = [];
    const result = await evaluatePerExpert(reading.runner, reading.router, passages, {
      onProgress: ({ sequences, of }) => seen.push(`${sequences}/${of}`),
    });
    const losses: number[] = [];
    for (let expert = 0; expert < NUM_EXPERTS; expert++) {
      const router = fixedRouter(NUM_EXPERTS, expert);
      const fixed = await evaluate({ runner: reading.runner, router }, tokenizer, DOCUMENTS, options);
      expect(result.fixed[expert]).toEqual(fixed);
      losses.push(fixed.loss);
    }
    const routed = await evaluate(reading, tokenizer, DOCUMENTS, options);
    expect(new Set(losses).size).toBe(NUM_EXPERTS);
    expect(result.bestExpert).toBe(losses.indexOf(Math.min(...losses)));
    expect(result.routed).toMatchObject({ ...routed, cost: routed.loss - Math.min(...losses) });
    expect(seen.at(-1)).toBe("12/12");

    const counts = Array<number>(NUM_EXPERTS).fill(0);
    let [kept, following] = [0, 0];
    for (const { tokenIds } of passages) {
      const route = Array.from(await routeOf(reading, Array.from(tokenIds.subarray(0, -1))));
      for (const [token, expert] of route.entries()) {
        counts[expert] = (counts[expert] as number) + 1;
        if (token === 0) continue;
        following++;
        if (route[token - 1] === expert) kept++;
      }
    }
    expect(result.routed?.shares).toEqual(counts.map((count) => count / (3 * 31)));
    expect(result.routed?.locality).toBe(kept / following);
  });

  test("has only the fixed losses without a router", async () => {
    const passages = passagesOf(reading.model, tokenizer, DOCUMENTS, { sequenceLength: 16, maxSequences: 1 });
    const result = await evaluatePerExpert(reading.runner, undefined, passages);
    expect(result.routed).toBeUndefined();
    expect(result.fixed).toHaveLength(NUM_EXPERTS);
  });

  test("counts locality within sequences only", () => {
    expect(routeStatistics([[0, 0, 1], [1], [2, 2]], 4)).toEqual({ shares: [2 / 6, 2 / 6, 2 / 6, 0], locality: 2 / 3 });
    expect(routeStatistics([[1]], 2)).toEqual({ shares: [0, 1], locality: 1 });
  });
});
