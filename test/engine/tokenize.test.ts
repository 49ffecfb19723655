// Long texts from callers, with the pocket model, in both isolations.

import { ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { cases, greedy, POCKET, rightAnswers } from "../support/pocket.ts";
import { expectReadMeError } from "../support/rejection.ts";

const LONG = 4_000_000;

describe.each(["thread", "process"] as const)("in a %s", (isolation) => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await ReadMeEngine.open(POCKET, { precision: "fp32", threads: 2, isolation });
  });
  afterAll(() => engine.dispose());

  const expectAlive = async (): Promise<void> => {
    expect((await complete(engine, { prompt: cases[0]?.text ?? "", params: greedy })).ids).toEqual(rightAnswers[0]);
    expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvUsedTokens: 0 });
  };

  // Each isolation takes one of the texts; the long tests take both.
  const [own, other] = isolation === "thread" ? [" ", "a"] : ["a", " "];
  test.each(RUNS_LONG_TESTS ? [own, other] : [own])(
    "a stream goes on while four million of %j are tokenized",
    async (unit) => {
      const stream = engine.generate({
        prompt: "The ship",
        params: { temperature: 0, maxTokens: 900, ignoreEos: true },
      });
      await stream.next();
      let isDone = false;
      const tokenized = engine.tokenize(unit.repeat(LONG)).finally(() => (isDone = true));
      let chunks = 0;
      for await (const chunk of stream) if (!isDone) chunks += chunk.tokens.length;
      // A worker that was busy with the text alone would have sent a handful.
      expect(chunks).toBeGreaterThan(50);
      expect((await engine.detokenize(await tokenized)).length).toBe(LONG);
      await expectAlive();
    },
    240_000,
  );

  test("a short text ends before earlier long texts", async () => {
    const controller = new AbortController();
    const ended: string[] = [];
    const long = Array.from({ length: 3 }, () =>
      engine.tokenize("x y".repeat(LONG / 4), { signal: controller.signal }).then(
        () => ended.push("long"),
        () => ended.push("aborted"),
      ),
    );
    await engine.tokenize("hello there");
    await complete(engine, { prompt: cases[0]?.text ?? "", params: greedy });
    expect(ended).toEqual([]);
    controller.abort();
    await Promise.all(long);
    expect(ended).toEqual(["aborted", "aborted", "aborted"]);
    await expectAlive();
  });

  test("aborted hostile texts leave no work", async () => {
    const controller = new AbortController();
    const texts = Array.from({ length: 12 }, (_, index) => (index % 2 === 0 ? " " : "a").repeat(LONG / 2));
    const all = texts.map((text) => engine.tokenize(text, { signal: controller.signal }));
    const outcomes = Promise.allSettled(all);
    await engine.tokenize("hello");
    controller.abort(new Error("enough"));
    expect((await outcomes).map((outcome) => outcome.status === "rejected" && String(outcome.reason))).toEqual(
      texts.map(() => "Error: enough"),
    );
    await expectAlive();
    await expect(engine.tokenize("a", { signal: controller.signal })).rejects.toThrow("enough");
  });

  test("a prompt that cannot fit is refused by its length alone, and other requests go on", async () => {
    const neighbour = complete(engine, { prompt: cases[1]?.text ?? "", params: greedy });
    for (const unit of [" ", "a", "hello ", "\n", "中", "<|im_end|>"]) {
      const prompt = unit.repeat(1e6 / unit.length);
      const refused = complete(engine, { prompt, params: greedy });
      await expectReadMeError(refused, "ERR_CONTEXT_LENGTH", "at least", "the context of 1024");
    }
    expect((await neighbour).ids).toEqual(rightAnswers[1]);
    await expectAlive();
  });

  test("`maxTokens` limits the tokens", async () => {
    const ids = await engine.tokenize("hello there");
    expect(await engine.tokenize("hello there", { maxTokens: ids.length })).toEqual(ids);
    await expectReadMeError(engine.tokenize("hello there", { maxTokens: ids.length - 1 }), "ERR_CONTEXT_LENGTH");
    await expectReadMeError(engine.tokenize("a".repeat(LONG), { maxTokens: 1024 }), "ERR_CONTEXT_LENGTH", "1024");
    for (const maxTokens of [-1, 0.5, "7", Number.NaN]) {
      await expect(engine.tokenize("a", { maxTokens: maxTokens as number })).rejects.toThrow(/`maxTokens`/);
    }
    await expect(engine.tokenize("a", { maxToken: 5 } as object)).rejects.toThrow(/did you mean `maxTokens`/);
  });

  test("a chat that is nested too deep is refused before it is sent", async () => {
    let deep: object = {};
    for (let depth = 0; depth < 100_000; depth++) deep = { deep };
    const messages = [{ role: "user", content: "a" }];
    await expectReadMeError(engine.applyTemplate(messages, { deep }), "ERR_CHAT_TEMPLATE", "nested");
    await expectAlive();
  });
});
