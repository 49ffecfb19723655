// Callers who say which tokens are allowed, in both isolations: the tokens are those of rows that travel.

import { EventEmitter, once } from "node:events";
import type { AllowContext, AllowedTokens, AllowTokens, ProcessLogits, SamplingParams } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { boundCaller, randomGuess, randomRule, rightGuess } from "../support/bound-tokens.ts";
import { complete, completeAll } from "../support/complete.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { cases, greedy, POCKET, rightAnswers } from "../support/pocket.ts";
import { ISOLATIONS } from "../support/pocket-engine.ts";
import { expectReadMeError } from "../support/rejection.ts";

const VOCAB_SIZE = 4096;
const WORDS = VOCAB_SIZE / 32;
const all = new Int32Array(WORDS).fill(-1);
const anything: AllowTokens = () => ({ draft: new Int32Array(), numForced: 0, masks: [all] });

function openPocket(options: OpenOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(POCKET, { precision: "fp32", threads: 2, ...options });
}

function refuseRow(): never {
  throw new Error("A row was sent");
}

/** A `processLogits` with this property, of which the function itself must not be called. */
function allowing(allowTokens: unknown): ProcessLogits {
  return Object.assign((): never => refuseRow(), { allowTokens }) as unknown as ProcessLogits;
}

/** A function that answers when its gate opens. */
function heldBack() {
  const answers: (() => void)[] = [];
  const calls = new EventEmitter();
  const asked = once(calls, "call");
  const processLogits = allowing((context: AllowContext) => {
    calls.emit("call");
    return new Promise((answer) => answers.push(() => answer(anything(context))));
  });
  return { processLogits, asked, answers };
}

const various: readonly SamplingParams[] = [
  { temperature: 0, maxTokens: 24, ignoreEos: true },
  { temperature: 0, maxTokens: 24, repetitionPenalty: 1.3, logprobs: 2, ignoreEos: true },
  { temperature: 1, maxTokens: 24, seed: 4, n: 3, logprobs: 2 },
  { temperature: 0.7, topP: 0.9, maxTokens: 24, seed: 5, presencePenalty: 1, n: 2, ignoreEos: true },
  { temperature: 1.4, topK: 20, maxTokens: 24, seed: 6, logprobs: 0, minTokens: 8 },
  { temperature: 1, minP: 0.1, maxTokens: 60, seed: 7, stop: ["e", " the"], minTokens: 3 },
];

describe.each(ISOLATIONS)("in a %s", (isolation) => {
  let engine: ReadMeEngine;
  let prompt: readonly number[];
  beforeAll(async () => {
    engine = await openPocket({ isolation });
    prompt = Array.from(await engine.tokenize("The ship was"));
  });
  afterAll(() => engine.dispose());

  // Each way of sampling in one of the isolations; the long tests take both.
  const own = various.filter((_, index) => RUNS_LONG_TESTS || index % 2 === ISOLATIONS.indexOf(isolation));
  test.each(own)("gives the tokens of rows that travel: %j", async (params) => {
    const rule = randomRule(VOCAB_SIZE, 11);
    const rows = await completeAll(engine, { prompt, params, processLogits: boundCaller(rule).plain });
    for (const guess of [() => [], randomGuess(1), randomGuess(2, 32), rightGuess(rows.choices[0]?.ids ?? [])]) {
      const { bound, numQuestions } = boundCaller(rule, guess);
      expect((await completeAll(engine, { prompt, params, processLogits: bound })).choices).toEqual(rows.choices);
      expect(numQuestions()).toBeGreaterThan(0);
    }
  });

  test("16 bound requests at once, beside free ones, give the same tokens as alone", async () => {
    const rule = randomRule(VOCAB_SIZE, 12);
    const requests = Array.from({ length: 16 }, (_, seed) => ({
      prompt: cases[seed % cases.length]?.text ?? "",
      params: { temperature: seed % 2, seed, maxTokens: 16, logprobs: 1, ignoreEos: true },
    }));
    const alone = [];
    for (const request of requests) {
      alone.push(await complete(engine, { ...request, processLogits: boundCaller(rule).plain }));
    }
    const free = cases.map(({ text }) => complete(engine, { prompt: text, params: greedy }));
    const together = requests.map((request, seed) =>
      complete(engine, { ...request, processLogits: boundCaller(rule, randomGuess(seed)).bound }),
    );
    expect(await Promise.all(together)).toEqual(alone);
    expect((await Promise.all(free)).map(({ ids }) => ids)).toEqual(rightAnswers);
  });

  test("a right draft answers for its tokens, so that fewer questions are asked", async () => {
    const params = { temperature: 0, maxTokens: 36, ignoreEos: true };
    const rule = randomRule(VOCAB_SIZE, 13);
    const { ids } = await complete(engine, { prompt, params, processLogits: boundCaller(rule).plain });
    for (const [most, numAsked] of [
      [0, 36],
      [2, 12],
      [8, 4],
      [32, 2],
    ] as const) {
      const { bound, numQuestions } = boundCaller(rule, rightGuess(ids, most));
      expect((await complete(engine, { prompt, params, processLogits: bound })).ids).toEqual(ids);
      expect([most, numQuestions()]).toEqual([most, numAsked]);
    }
  });

  test("is asked with all tokens so far and the choice", async () => {
    const contexts: AllowContext[] = [];
    const processLogits = allowing((context: AllowContext) => {
      contexts.push(context);
      return anything(context);
    });
    const params = { ...greedy, maxTokens: 4, ignoreEos: true };
    const { ids } = await complete(engine, { prompt, params, processLogits });
    const [promptTokens, choice] = [prompt.length, 0];
    expect(contexts).toEqual(
      ids.map((_, index) => ({
        tokenIds: Int32Array.from([...prompt, ...ids.slice(0, index)]),
        promptTokens,
        choice,
        draft: expect.any(Int32Array) as Int32Array,
      })),
    );
  });

  const good: AllowedTokens = { draft: Int32Array.of(5), numForced: 0, masks: [all, all] };
  const one = new Int32Array(WORDS);
  one[0] = 1 << 5;
  const bad: readonly (readonly [unknown, ErrorConstructor, string])[] = [
    [undefined, TypeError, "Expected `allowTokens` to give { draft, numForced, masks }, got `undefined`"],
    [7, TypeError, "Expected `allowTokens` to give { draft, numForced, masks }, got `7` (number)"],
    [{}, TypeError, "Expected `allowTokens` to give an Int32Array as `draft`, got `undefined`"],
    [{ ...good, draft: [5] }, TypeError, "Expected `allowTokens` to give an Int32Array as `draft`, got `[…]` (array)"],
    [
      { ...good, draft: new Int32Array(33) },
      RangeError,
      "Expected `allowTokens` to give at most 32 tokens as `draft`, got 33",
    ],
    [{ ...good, draft: Int32Array.of(4096) }, RangeError, "Expected `draft[0] of allowTokens` to be"],
    [{ ...good, draft: Int32Array.of(-1) }, RangeError, "Expected `draft[0] of allowTokens` to be"],
    [{ ...good, numForced: 2 }, RangeError, "Expected `numForced of allowTokens` to be"],
    [{ ...good, numForced: 0.5 }, TypeError, "Expected `numForced of allowTokens` to be"],
    [{ ...good, numForced: "1" }, TypeError, "Expected `numForced of allowTokens` to be"],
    [{ ...good, masks: all }, TypeError, "Expected `allowTokens` to give a list of Int32Arrays as `masks`"],
    [{ ...good, masks: [all] }, RangeError, "Expected `allowTokens` to give 2 masks, got 1"],
    [{ ...good, masks: [all, all, all] }, RangeError, "Expected `allowTokens` to give 2 masks, got 3"],
    [{ ...good, masks: [all, [1]] }, TypeError, "Expected `allowTokens` to give an Int32Array as `masks[1]`"],
    [
      { ...good, masks: [all, new Int32Array(3)] },
      RangeError,
      "Expected `allowTokens` to give 128 words in `masks[1]`, got 3",
    ],
    [
      { ...good, draft: Int32Array.of(6), masks: [one, all] },
      RangeError,
      "Expected `allowTokens` to give a mask that allows `draft[0]`",
    ],
    [{ ...good, numForced: 1 }, RangeError, "Expected `allowTokens` to give one bit in `masks[0]`, got more"],
    [
      { draft: new Int32Array(), numForced: 0, masks: [new Int32Array(WORDS)] },
      RangeError,
      "Expected `allowTokens` to allow a token that can be chosen, got none",
    ],
  ];
  test("a wrong answer ends its request alone, and names what is wrong", async () => {
    for (const [answer, kind, message] of bad) {
      for (const failsAt of [0, 2]) {
        const processLogits = allowing((context: AllowContext) =>
          context.tokenIds.length < prompt.length + failsAt ? anything(context) : answer,
        );
        const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
        const outcome = completeAll(engine, { prompt, params: { ...greedy, n: 2 }, processLogits });
        const error: unknown = await outcome.catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(kind);
        expect((error as Error).message).toContain(message);
        expect((await neighbour).ids).toEqual(rightAnswers[1]);
      }
    }
    expect(await engine.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
  });

  test.each([new Error("my own"), "a text", undefined])("rethrows what the function throws: %s", async (mine) => {
    const throwing = allowing((context: AllowContext) => {
      // oxlint-disable-next-line typescript/only-throw-error -- a caller may
      if (context.tokenIds.length > prompt.length + 2) throw mine;
      return anything(context);
    });
    for (const processLogits of [throwing, allowing(() => Promise.reject<void>(mine))]) {
      const outcome = complete(engine, { prompt, params: greedy, processLogits }).then(
        () => "finished",
        (error: unknown) => ({ error }),
      );
      expect(await outcome).toEqual({ error: mine });
    }
  });

  test("an abort in the middle frees the memory, and a later answer is ignored", async () => {
    const controller = new AbortController();
    const { processLogits, asked, answers } = heldBack();
    const reading = engine.generate({ prompt, params: greedy, processLogits, signal: controller.signal }).next();
    await asked;
    controller.abort(new Error("enough"));
    await expect(reading).rejects.toThrow("enough");
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
    for (const answer of answers) answer();
    expect((await complete(engine, { prompt: cases[0]?.text ?? "", params: greedy })).ids).toEqual(rightAnswers[0]);
    expect(answers).toHaveLength(1);
  });

  test("a dead worker or a disposed engine ends the wait for an answer", async () => {
    const doomed = await openPocket({ isolation });
    const [first, second] = [heldBack(), heldBack()];
    const killed = complete(doomed, { prompt, processLogits: first.processLogits });
    await first.asked;
    doomed.kill();
    await expectReadMeError(killed, "ERR_ENGINE_FAILED");
    await doomed.restart();
    for (const answer of first.answers) answer();
    const disposed = complete(doomed, { prompt, processLogits: second.processLogits });
    await second.asked;
    await Promise.all([doomed.dispose(), expectReadMeError(disposed, "ERR_DISPOSED")]);
    for (const answer of second.answers) answer();
  });

  test("refuses a property that is no function at once", () => {
    expect(() => engine.generate({ prompt, processLogits: allowing(7) })).toThrow(
      "Expected `processLogits.allowTokens` to be a function, got `7` (number)",
    );
  });
});
