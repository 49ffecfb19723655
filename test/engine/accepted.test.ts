// Direct answers of an engine: a prompt that was accepted, how far it is read, and an engine that has failed. Events only
// observe.

import type { GenerateChunk, GenerateRequest, PromptProgress } from "@readme-moe/core";
import { ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { completeAll } from "../support/complete.ts";
import { cases, greedy, POCKET, rightAnswers } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { ENDLESS, ENDLESS_TOKENS, openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const long = { maxTokens: 200, temperature: 0, ignoreEos: true } as const;

const idsOf = (length: number, first: number): readonly number[] =>
  Array.from({ length }, (_, at) => first + (at % 97));

const throwing = (error: Error) => (): never => {
  throw error;
};

describe("a prompt's progress", () => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await openTinyEngine(await persistentFolder(), { maxNumSeqs: 2 }, ENDLESS);
  });
  afterAll(() => engine.dispose());
  const params = { ...long, maxTokens: 1 };

  test("is told before the first chunk, from the cached tokens up", async () => {
    const told: PromptProgress[] = [];
    const onProgress = (progress: PromptProgress): void => void told.push(progress);
    const generation = engine.generate({ prompt: idsOf(3000, 1), params, onProgress });
    await generation.next();
    await generation.return?.();
    expect(told[0]).toEqual({
      promptTokens: 3000,
      cachedTokens: 0,
      readTokens: 0,
      queuedMs: expect.any(Number) as number,
    });
    const read = told.map(({ readTokens }) => readTokens);
    expect(read).toEqual(read.toSorted((a, b) => a - b));
    expect(told.every(({ promptTokens, readTokens }) => promptTokens === 3000 && readTokens < 3000)).toBe(true);
    told.length = 0;
    await completeAll(engine, {
      prompt: [...idsOf(3000, 1), ...idsOf(1000, 200)],
      params: { ...params, n: 2 },
      onProgress,
    });
    expect(told[0]).toMatchObject({ promptTokens: 4000, cachedTokens: 2992, readTokens: 2992 });
  });

  test("is not told of a prompt that one step reads", async () => {
    let numTold = 0;
    await completeAll(engine, { prompt: idsOf(100, 300), params, onProgress: () => void numTold++ });
    expect(numTold).toBe(0);
  });

  test("ends the request with the error of its function, and no other", async () => {
    const other = completeAll(engine, { prompt: idsOf(2000, 400), params });
    const onProgress = throwing(new Error("my own"));
    await expect(engine.generate({ prompt: idsOf(3000, 500), params, onProgress }).next()).rejects.toThrow("my own");
    expect((await other).usage?.promptTokens).toBe(2000);
    await expect.poll(() => engine.stats()).toMatchObject({ numRunning: 0, kvUsedTokens: 0 });
    expect(() => engine.generate({ prompt: [5], onProgress: "soon" as never })).toThrow(TypeError);
  });
});

describe("a generation's `accepted`", () => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await openTinyEngine(await persistentFolder(), { maxNumSeqs: 2 }, ENDLESS);
  });
  afterAll(() => engine.dispose());

  test.each([1, 3])("holds the prompt's tokens and their experts, with %i choices", async (n) => {
    const prompt = "The ship was late, and the harbour was empty";
    const { tokenIds, experts } = await engine.route(prompt);
    expect(new Set(experts).size).toBeGreaterThan(1);
    const generation = engine.generate({ prompt, params: { ...long, maxTokens: 3, n } });
    expect(await generation.accepted).toEqual({ promptTokens: tokenIds.length, experts });
    const chunks: GenerateChunk[] = [];
    for await (const chunk of generation) chunks.push(chunk);
    expect(chunks.filter(({ finishReason }) => finishReason)).toHaveLength(n);
  });

  test("resolves before the first chunk is read, also while the request waits for room", async () => {
    const running = [1, 2].map((seed) =>
      engine.generate({ prompt: [seed, 5], params: { ...long, maxTokens: ENDLESS_TOKENS } }),
    );
    await Promise.all(running.map((one) => one.next()));
    const waiting = engine.generate({ prompt: [7, 8, 9], params: { ...long, maxTokens: 2 } });
    expect((await waiting.accepted).promptTokens).toBe(3);
    expect(await engine.stats()).toMatchObject({ numRunning: 2, numWaiting: 1 });
    for (const one of [...running, waiting]) await one.return?.();
  });

  test.each<[string, GenerateRequest, string]>([
    ["a prompt that does not fit", { prompt: Array.from({ length: 70_000 }, () => 5) }, "ERR_CONTEXT_LENGTH"],
    ["an empty prompt", { prompt: [] }, "at least one token"],
    ["an aborted signal", { prompt: [5], signal: AbortSignal.abort(new Error("gone before")) }, "gone before"],
  ])("rejects as the iteration does for %s", async (_, request, expected) => {
    const generation = engine.generate(request);
    const [accepted, next] = await Promise.allSettled([generation.accepted, generation.next()]);
    expect(accepted).toEqual(next);
    const { code, message } = (accepted as PromiseRejectedResult).reason as { code?: string; message: string };
    expect(`${code} ${message}`).toContain(expected);
  });

  test("rejects with an AbortError if the iteration is left first", async () => {
    const generation = engine.generate({ prompt: [5], params: long });
    await generation.return?.();
    await expect(generation.accepted).rejects.toMatchObject({ name: "AbortError" });
  });

  test("can be ignored when it rejects", async () => {
    const unhandled: unknown[] = [];
    const onUnhandled = (reason: unknown): void => void unhandled.push(reason);
    process.on("unhandledRejection", onUnhandled);
    await expect(engine.generate({ prompt: [] }).next()).rejects.toThrow(RangeError);
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", onUnhandled);
    expect(unhandled).toEqual([]);
  });

  test("comes with a usage whose `queuedMs` is the longest wait of a choice", async () => {
    const waits: number[] = [];
    const onFinished = ({ sequenceId, queuedMs }: { sequenceId: string; queuedMs: number }): void => {
      if (sequenceId.startsWith("asked")) waits.push(queuedMs);
    };
    engine.events.on("sequence:finished", onFinished);
    // Two sequences run at once: the third choice waits until one has ended.
    const params = { ...long, maxTokens: 20, n: 3 };
    const { usage } = await completeAll(engine, { prompt: [5, 6], params, id: "asked" });
    await engine.stats();
    engine.events.off("sequence:finished", onFinished);
    expect(waits).toHaveLength(3);
    expect(usage?.queuedMs).toBe(Math.max(...waits));
    expect(usage?.queuedMs).toBeGreaterThan(Math.min(...waits));
  });
});

describe("an engine's `whenFailed`", () => {
  test("resolves with the error of the worker that has gone, and begins anew when the engine is opened again", async () => {
    const engine = await ReadMeEngine.open(POCKET, { precision: "fp32", isolation: "thread", threads: 1 });
    for (const round of [1, 2]) {
      const failed = engine.whenFailed();
      const generation = engine.generate({ prompt: `Round ${round}`, params: long });
      await generation.accepted;
      engine.kill();
      expect(await failed).toMatchObject({ code: "ERR_ENGINE_FAILED" });
      expect(await engine.whenFailed()).toBe(await failed);
      await expectReadMeError(generation.next(), "ERR_ENGINE_FAILED");
      await engine.restart();
    }
    await engine.dispose();
  });
});

test("an engine whose events are dropped answers as any other", async () => {
  const engine = await ReadMeEngine.open(POCKET, { precision: "fp32", isolation: "thread", threads: 1 });
  engine.events.emit = () => true;
  const answers = await Promise.all(cases.map(({ text }) => completeAll(engine, { prompt: text, params: greedy })));
  expect(answers.map(({ choices }) => choices[0]?.ids)).toEqual(rightAnswers);
  const failed = engine.whenFailed();
  engine.kill();
  expect(await failed).toMatchObject({ code: "ERR_ENGINE_FAILED" });
  await engine.restart();
  expect((await completeAll(engine, { prompt: cases[0]?.text ?? "", params: greedy })).choices[0]?.ids).toEqual(
    rightAnswers[0],
  );
  await engine.dispose();
});
