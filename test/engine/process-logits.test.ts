// A caller's function that changes logits before a token is chosen, in both isolations.

import { EventEmitter, once } from "node:events";
import type { GenerateRequest, LogitsContext, ProcessLogits } from "@readme-moe/core";
import { ReadMeEngine, type OpenOptions } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import { cases, greedy, POCKET, rightAnswers } from "../support/pocket.ts";
import { ISOLATIONS } from "../support/pocket-engine.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference, promptLogits, runningModel, type RunningModel } from "../support/running-model.ts";

const VOCAB_SIZE = 4096;
const long = { ...greedy, maxTokens: 900 };

function openPocket(options: OpenOptions = {}): Promise<ReadMeEngine> {
  return ReadMeEngine.open(POCKET, { precision: "fp32", threads: 2, ...options });
}

function best(logits: Float32Array): number {
  return logits.reduce((most, logit, id) => (logit > (logits[most] as number) ? id : most), 0);
}

const forbidBest: ProcessLogits = (logits) => void (logits[best(logits)] = -Infinity);
const halve: ProcessLogits = (logits) => logits.map((logit) => logit / 2);

/** A function that answers when its gate opens. */
function heldBack() {
  const answers: (() => void)[] = [];
  const calls = new EventEmitter();
  const asked = once(calls, "call");
  const processLogits: ProcessLogits = () => {
    calls.emit("call");
    return new Promise<void>((answer) => answers.push(answer));
  };
  return { processLogits, asked, answers };
}

let model: RunningModel;
beforeAll(async () => {
  model = await runningModel(POCKET);
});
afterAll(() => model[Symbol.asyncDispose]());

describe.each(ISOLATIONS)("in a %s", (isolation) => {
  let engine: ReadMeEngine;
  let prompt: readonly number[];
  beforeAll(async () => {
    engine = await openPocket({ isolation });
    prompt = Array.from(await engine.tokenize("The ship was"));
  });
  afterAll(() => engine.dispose());

  const idle: Readonly<Record<string, ProcessLogits>> = {
    "returns nothing": () => undefined,
    "returns its argument": (logits) => logits,
    "returns a copy, later": (logits) => Promise.resolve(logits.slice()),
    "returns a part of other memory": (logits) => {
      const larger = new Float32Array(2 * VOCAB_SIZE);
      larger.set(logits, 7);
      return larger.subarray(7, 7 + VOCAB_SIZE);
    },
  };
  test.each(Object.entries(idle))("one that %s changes no token", async (_, processLogits) => {
    const completed = await Promise.all(
      cases.map(({ text }) => complete(engine, { prompt: text, params: greedy, processLogits })),
    );
    expect(completed.map(({ ids }) => ids)).toEqual(rightAnswers);
  });

  test("gets the model's own logits and all tokens so far, once for each token", async () => {
    const contexts: LogitsContext[] = [];
    const rows: Float32Array[] = [];
    const processLogits: ProcessLogits = (logits, context) => {
      contexts.push(context);
      rows.push(logits.slice());
    };
    // Later steps of sampling do not change them.
    const params = { ...greedy, maxTokens: 6, repetitionPenalty: 1.3, logitBias: { 7: 3 }, logprobs: 2 };
    const { ids, tokens } = await complete(engine, { prompt, params, processLogits });
    expect(tokens).toEqual((await complete(engine, { prompt, params })).tokens);
    const before = ids.map((_, index) => [...prompt, ...ids.slice(0, index)]);
    const promptTokens = prompt.length;
    expect(contexts).toEqual(before.map((all) => ({ tokenIds: Int32Array.from(all), promptTokens, choice: 0 })));
    for (const [index, tokenIds] of before.entries()) {
      const { fullLogits } = await promptLogits(model, tokenIds);
      expect(largestDifference(rows[index] as Float32Array, fullLogits)).toBeLessThan(1e-3);
    }
  });

  test("forbidding the best token gives the second best", async () => {
    const params = { ...greedy, maxTokens: 6 };
    const { ids } = await complete(engine, { prompt, params, processLogits: forbidBest });
    for (const [index, id] of ids.entries()) {
      const { fullLogits } = await promptLogits(model, [...prompt, ...ids.slice(0, index)]);
      fullLogits[best(fullLogits)] = -Infinity;
      expect(id).toBe(best(fullLogits));
    }
  });

  test("leaving one token forces it; its log-probability is still the model's own", async () => {
    const wanted = Array.from(await engine.tokenize(" painted bright red by nobody"));
    const processLogits: ProcessLogits = (_, { tokenIds, promptTokens }) => {
      const forced = new Float32Array(VOCAB_SIZE).fill(-Infinity);
      forced[wanted[tokenIds.length - promptTokens] as number] = 0;
      return forced;
    };
    const params = { maxTokens: wanted.length, ignoreEos: true, temperature: 1.3, topP: 0.8, logprobs: 1 };
    const { ids, text, tokens } = await complete(engine, { prompt, params, processLogits });
    expect(ids).toEqual(wanted);
    expect(text).toBe(await engine.detokenize(wanted));
    const { fullLogits, logSumExp } = await promptLogits(model, prompt);
    const logprob = (id: number): number => (fullLogits[id] as number) - (logSumExp[0] as number);
    const [{ logprob: ofForced = 1, topLogprobs = [] } = {}] = tokens;
    expect(ofForced).toBeCloseTo(logprob(wanted[0] as number), 3);
    expect(topLogprobs[0]?.id).toBe(best(fullLogits));
    expect(topLogprobs[0]?.logprob).toBeCloseTo(logprob(best(fullLogits)), 3);
  });

  test("sampling, penalties and seeds apply to the changed logits, for every choice", async () => {
    const params = { n: 2, seed: 3, maxTokens: 16, topP: 0.9, presencePenalty: 1, logprobs: 2, ignoreEos: true };
    const calls = [0, 0];
    const count: ProcessLogits = (_, { choice }) => void (calls[choice] = (calls[choice] as number) + 1);
    // Requests wait for different times, and those with a function are not drafted.
    const anyNumber = expect.any(Number) as number;
    const timeless = { usage: { queuedMs: anyNumber, acceptedDraftTokens: 0, rejectedDraftTokens: 0 } };
    const plain = await completeAll(engine, { prompt, params });
    const counted = await completeAll(engine, { prompt, params, processLogits: count });
    expect(counted).toEqual({ ...plain, usage: { ...plain.usage, ...timeless.usage } });
    expect(plain.choices[0]?.ids).not.toEqual(plain.choices[1]?.ids);
    expect(calls).toEqual([16, 16]);
    // Halved logits correspond to twice the temperature.
    const bare = { ...params, presencePenalty: 0 };
    const halved = await completeAll(engine, { prompt, params: bare, processLogits: halve });
    const warm = await completeAll(engine, { prompt, params: { ...bare, temperature: 2 } });
    expect(halved).toEqual({ ...warm, usage: { ...warm.usage, ...timeless.usage } });
    expect(halved.choices).not.toEqual(plain.choices);
  });

  test("requests without a function give the same tokens as alone, also beside one that never answers", async () => {
    const params = { seed: 8, topP: 0.9, maxTokens: 24, logprobs: 2, ignoreEos: true };
    const requests = cases.map(({ text }): GenerateRequest => ({ prompt: text, params }));
    const alone = [];
    for (const request of requests) alone.push(await complete(engine, request));
    const waiting = engine.generate({ prompt, params: long, processLogits: heldBack().processLogits });
    const processed = requests.map((request) => complete(engine, { ...request, processLogits: async () => undefined }));
    const beside = requests.map((request) => complete(engine, request));
    expect(await Promise.all(beside)).toEqual(alone);
    expect(await Promise.all(processed)).toEqual(alone);
    await waiting.return?.();
  });

  const failing: Readonly<Record<string, readonly [ProcessLogits, ErrorConstructor, string]>> = {
    "another length": [() => new Float32Array(3), RangeError, "Expected `processLogits` to give 4096 logits, got 3"],
    "no Float32Array": [
      (() => [1, 2]) as unknown as ProcessLogits,
      TypeError,
      "Expected `processLogits` to return a Float32Array or nothing, got `[…]` (array)",
    ],
    "a NaN": [
      (logits) => void (logits[5] = Number.NaN),
      RangeError,
      "Expected `processLogits` to leave numbers or `-Infinity`, got NaN for token 5",
    ],
    "no token": [
      (logits) => logits.fill(-Infinity),
      RangeError,
      "Expected `processLogits` to leave a token that can be chosen, got `-Infinity` for all",
    ],
  };
  test.each(Object.entries(failing))(
    "returning %s ends only its request",
    async (_, [processLogits, kind, message]) => {
      const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
      const outcome = completeAll(engine, { prompt, params: { ...greedy, n: 2 }, processLogits });
      const error: unknown = await outcome.catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(kind);
      expect(error).toHaveProperty("message", message);
      expect((await neighbour).ids).toEqual(rightAnswers[1]);
      expect(await engine.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
    },
  );

  test.each([new Error("my own"), "a text", undefined])("rethrows what the function throws: %s", async (mine) => {
    const reasons: string[] = [];
    engine.events.on("sequence:finished", ({ reason }) => reasons.push(reason));
    const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
    const throwing: ProcessLogits = (_, { tokenIds, promptTokens }) => {
      // oxlint-disable-next-line typescript/only-throw-error -- a caller may
      if (tokenIds.length > promptTokens + 2) throw mine;
    };
    for (const processLogits of [throwing, () => Promise.reject<void>(mine)]) {
      const outcome = complete(engine, { prompt, params: greedy, processLogits }).then(
        () => "finished",
        (error: unknown) => ({ error }),
      );
      expect(await outcome).toEqual({ error: mine });
    }
    expect((await neighbour).ids).toEqual(rightAnswers[1]);
    await engine.stats();
    expect(reasons.toSorted()).toEqual(["error", "error", "length"]);
    engine.events.removeAllListeners();
  });

  test("an abort ends the wait for an answer and frees the memory, and a later answer is ignored", async () => {
    const controller = new AbortController();
    const { processLogits, asked, answers } = heldBack();
    const reading = engine.generate({ prompt, params: long, processLogits, signal: controller.signal }).next();
    await asked;
    expect((await engine.stats()).numRunning).toBe(1);
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

  test("a waiting request gets the place of an aborted one that waited for an answer", async () => {
    const narrow = await openPocket({ isolation, maxNumSeqs: 1 });
    const { processLogits, asked } = heldBack();
    const holder = narrow.generate({ prompt, params: long, processLogits });
    await asked;
    const next = complete(narrow, { prompt: cases[0]?.text ?? "", params: greedy });
    expect(await narrow.stats()).toMatchObject({ numRunning: 1 });
    await holder.return?.();
    expect((await next).ids).toEqual(rightAnswers[0]);
    await narrow.dispose();
  });

  test("refuses a value that is no function at once", () => {
    // @ts-expect-error a caller without types
    expect(() => engine.generate({ prompt, processLogits: 7 })).toThrow(/`processLogits`.*got `7` \(number\)/);
  });
});
