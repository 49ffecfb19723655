// Answers about allowed tokens as plain data: what is left of them, and their messages; and questions in the core.

import { join } from "node:path";
import type { Tokenizer } from "@readme-moe/model";
import { afterAll, beforeAll, expect, test } from "vitest";
import { allowanceAfter, fromWireAllowance, toWireAllowance } from "../../packages/engine/src/allowed-tokens.ts";
import { allowanceBy, randomGuess, randomRule } from "../support/bound-tokens.ts";
import { CoreBench, randomJobs } from "../support/core-bench.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { runningModel, type RunningModel } from "../support/running-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const folder = persistentFolder();
let running: RunningModel;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const path = join(await folder, "model");
  await writeTinyReadMe(path, { ...WITH_TOKENIZER });
  running = await runningModel(path);
  ({ tokenizer } = await running.model.loadText());
});
afterAll(() => running[Symbol.asyncDispose]());

test("what is left of an answer is the answer to the later question, as long as the draft is right", () => {
  const random = seededRandom(31);
  let numKept = 0;
  for (let round = 0; round < 400; round++) {
    const rule = randomRule(70, round);
    const before = Array.from({ length: randomInteger(random, 4) }, () => randomInteger(random, 70));
    const prompt = [3, 1];
    const allowance = allowanceBy(before, rule, randomGuess(round, 8)(before, rule));
    const placed = { ...allowance, position: prompt.length + before.length };
    const numRight = randomInteger(random, allowance.draft.length + 2);
    const came = [...allowance.draft.subarray(0, numRight)];
    if (numRight > allowance.draft.length) came.push(5);
    else if (numRight > 0 && random() < 0.3) came[randomInteger(random, numRight)]! ^= 1;
    const isRight = came.length <= allowance.draft.length && came.every((id, index) => id === allowance.draft[index]);
    const left = allowanceAfter(placed, [...prompt, ...before, ...came]);
    if (!isRight) {
      expect(left).toBeUndefined();
      continue;
    }
    numKept++;
    const after = [...before, ...came];
    const rest = Array.from(allowance.draft.subarray(came.length));
    const expected = allowanceBy(after, rule, rest);
    // Forced tokens behind a free one are not counted by the first answer.
    const { numForced, ...others } = left ?? {};
    expect(others).toEqual({ draft: expected.draft, masks: expected.masks, position: prompt.length + after.length });
    expect(numForced).toBe(Math.max(0, allowance.numForced - came.length));
  }
  expect(numKept).toBeGreaterThan(150);
});

test("an answer survives its message, which has no masks of forced tokens", () => {
  for (let round = 0; round < 200; round++) {
    const rule = randomRule(97, round);
    const allowance = allowanceBy([], rule, randomGuess(round, 9)([], rule));
    const wire = structuredClone(toWireAllowance(allowance));
    expect(wire.masks.length).toBe((1 + allowance.draft.length - allowance.numForced) * 4);
    expect(fromWireAllowance(wire)).toEqual(allowance);
  }
});

const VOCAB = 4096;
const rule = randomRule(VOCAB, 5);

/** Answers an open question, or another one, with a random draft. */
function answerOne({ core, questions }: CoreBench, index = 0): void {
  for (const { questionId, tokenIds, id } of questions.splice(index, 1)) {
    const before = tokenIds.slice(promptLength(id));
    core.answer(questionId, allowanceBy(before, rule, randomGuess(id.length, 3)(before, rule)));
  }
}
const jobs = randomJobs(10, 77, 60).map((job) => ({ ...job, params: { ...job.params, maxTokens: 80 } }));
const promptLength = (id: string): number => jobs.find((job) => job.id === id)?.promptIds.length ?? 3;

async function finish(bench: CoreBench, random: () => number): Promise<void> {
  while (bench.core.hasWork || bench.questions.length > 0) {
    if (bench.questions.length > 0 && random() < 0.6) answerOne(bench, randomInteger(random, bench.questions.length));
    if (bench.core.hasWork) await bench.core.step();
    bench.core.checkIntegrity();
  }
}

test("one question is open for each sequence, and other sequences run meanwhile", async () => {
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 1024 });
  bench.addBound("asks", [1, 2, 3], { temperature: 0, maxTokens: 5 });
  bench.add("plain", [4, 5, 6], { temperature: 0, maxTokens: 5 });
  await bench.finish();
  expect(bench.outcomes.get("plain")?.tokens).toHaveLength(5);
  expect(bench.outcomes.get("asks")).toBeUndefined();
  expect(bench.questions).toEqual([{ id: "asks", questionId: 1, tokenIds: [1, 2, 3], draft: new Int32Array() }]);
  expect(bench.core.stats()).toMatchObject({ numRunning: 1 });
  bench.core.abort("asks");
  answerOne(bench);
  await bench.finish();
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
});

test("answers in any order, with room for few sequences, change no token", async () => {
  const alone = new Map<string, unknown>();
  for (const { id, promptIds, params } of jobs) {
    const bench = new CoreBench(running, tokenizer, { capacityTokens: 256 });
    bench.addBound(id, promptIds, params);
    await finish(bench, () => 0);
    alone.set(id, bench.outcomes.get(id));
  }
  let numPreempted = 0;
  for (const [seed, capacityTokens] of [256, 320, 384].entries()) {
    const random = seededRandom(seed);
    const bench = new CoreBench(running, tokenizer, { capacityTokens, maxNumSeqs: 20 });
    for (const { id, promptIds, params } of jobs) bench.addBound(id, promptIds, params);
    await finish(bench, random);
    numPreempted += bench.count("sequence:preempted");
    for (const { id } of jobs) expect(bench.outcomes.get(id)).toEqual(alone.get(id));
  }
  expect(numPreempted).toBeGreaterThan(0);
});

test("aborts at any moment forget the questions", async () => {
  const random = seededRandom(9);
  const bench = new CoreBench(running, tokenizer, { capacityTokens: 512, maxNumSeqs: 6 });
  for (const { id, promptIds, params } of jobs) bench.addBound(id, promptIds, params);
  const left = jobs.map(({ id }) => id);
  while (bench.core.hasWork || bench.questions.length > 0) {
    const stepping = bench.core.hasWork ? bench.core.step() : undefined;
    if (bench.questions.length > 0) answerOne(bench, randomInteger(random, bench.questions.length));
    if (random() < 0.1) bench.core.abort(left[randomInteger(random, left.length)] as string);
    await stepping;
    bench.core.checkIntegrity();
  }
  expect(bench.core.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
});
