// Custom schedulers and eviction policies, in the thread or process that runs the model.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ReadMeEngine, type EngineOptions } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { ISOLATIONS } from "../support/pocket-engine.ts";
import { ENDLESS, ENDLESS_TOKENS } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";

const params = { temperature: 0, maxTokens: 6, ignoreEos: true };
const PROMPTS = [
  [1, 2, 3],
  [4, 5, 6, 7],
  [8, 9],
];

let model: string;
let modules: string;
let expected: readonly (readonly number[])[];
beforeAll(async () => {
  const folder = await persistentFolder();
  model = join(folder, "model");
  modules = join(folder, "own.mjs");
  await writeTinyReadMe(model, { ...ENDLESS, ...WITH_TOKENIZER, numExperts: 3 });
  await writeFile(
    modules,
    `// One sequence at a time, the last first.
    export default ({ sequences, limits }) => {
      const last = sequences.toSorted((a, b) => b.arrival - a.arrival)[0];
      if (!last) return [];
      const chunkEnd = (Math.floor(last.numComputedTokens / limits.chunkTokens) + 1) * limits.chunkTokens;
      return [{ id: last.id, numTokens: Math.min(last.numTokens, chunkEnd) - last.numComputedTokens }];
    };
    export const evictLast = (candidates) => candidates.at(-1);
    export const nobody = () => [{ id: "nobody", numTokens: 1 }];
    export const text = "no function";
    `,
  );
  expected = await answersOf({});
});

async function answersOf(options: EngineOptions, use?: (engine: ReadMeEngine) => void) {
  const engine = await ReadMeEngine.open(model, { isolation: "thread", threads: 1, precision: "int8", ...options });
  use?.(engine);
  const answers = await Promise.all(PROMPTS.map((prompt) => complete(engine, { prompt, params })));
  await engine.dispose();
  return answers.map(({ ids }) => ids);
}

/** Lists the number of sequences of each step. */
function stepSizes(engine: ReadMeEngine): number[] {
  const sizes: number[] = [];
  engine.events.on("batch:scheduled", ({ sequenceIds }) => sizes.push(sequenceIds.length));
  return sizes;
}

test.each(ISOLATIONS)("a scheduler of a module runs in a %s, by path and by URL", async (isolation) => {
  for (const module of [modules, pathToFileURL(modules)]) {
    let sizes: readonly number[] = [];
    const answers = await answersOf({ isolation, scheduler: { module } }, (engine) => (sizes = stepSizes(engine)));
    expect(answers).toEqual(expected);
    expect(Math.max(...sizes)).toBe(1);
  }
});

test("an eviction policy of a module decides what is evicted", async () => {
  const evicted: number[] = [];
  const expertCacheBytes = 3 * 8960;
  const policy = { module: modules, export: "evictLast" };
  const answers = await answersOf({ expertCacheBytes, expertCachePolicy: policy }, (engine) => {
    engine.events.on("expert:evicted", ({ expert }) => evicted.push(expert));
  });
  expect(answers).toEqual(expected);
  expect(evicted.length).toBeGreaterThan(0);
});

describe("a scheduler can be changed while the engine works:", () => {
  let engine: ReadMeEngine;
  beforeAll(async () => {
    engine = await ReadMeEngine.open(model, { isolation: "thread", threads: 1, precision: "int8" });
  });
  afterAll(() => engine.dispose());

  test("from the next step on, with the same answers", async () => {
    const sizes = stepSizes(engine);
    const endless = { ...params, maxTokens: ENDLESS_TOKENS };
    const first = engine.generate({ prompt: [1, 2, 3], params: endless });
    const second = engine.generate({ prompt: [4, 5], params: endless });
    await first.next();
    await second.next();
    await engine.setScheduling({ scheduler: { module: modules } });
    const changedAt = sizes.length;
    while (sizes.length < changedAt + 10) await second.next();
    expect(Math.max(...sizes.slice(0, changedAt))).toBe(2);
    // Events of the running step may arrive after the answer.
    expect(Math.max(...sizes.slice(changedAt + 2))).toBe(1);
    for (const one of [first, second]) await one.return?.();
    const changedBack = sizes.length;
    await engine.setScheduling({});
    const answers = await Promise.all(PROMPTS.map((prompt) => complete(engine, { prompt, params })));
    expect(answers.map(({ ids }) => ids)).toEqual(expected);
    expect(Math.max(...sizes.slice(changedBack))).toBeGreaterThan(1);
  });

  test("one that cannot be imported leaves the previous one", async () => {
    const wrong = { scheduler: { module: modules, export: "text" } };
    await expect(engine.setScheduling(wrong)).rejects.toMatchObject({ code: "ERR_MODULE" });
    await expect(engine.setScheduling({ maxDelayMs: -1 })).rejects.toThrow(RangeError);
    await expect(engine.setScheduling({ scheduller: "fcfs" } as object)).rejects.toThrow(/did you mean `scheduler`/);
    expect((await complete(engine, { prompt: [1, 2, 3], params })).ids).toEqual(expected[0]);
  });
});

describe("is rejected clearly:", () => {
  test("a function, which cannot be sent", async () => {
    const scheduler = (() => []) as never;
    await expect(answersOf({ scheduler })).rejects.toThrow(/`scheduler`.*`\{ module, export \}`, got a function/);
    await expect(answersOf({ expertCachePolicy: scheduler })).rejects.toThrow(/`expertCachePolicy`.*got a function/);
  });

  test("an eviction policy without a memory budget", async () => {
    const message = /`expertCachePolicy` with `expertCacheBytes` only/;
    await expect(answersOf({ expertCachePolicy: "lru" })).rejects.toThrow(message);
    await expect(answersOf({ expertCachePolicy: { module: modules, export: "evictLast" } })).rejects.toThrow(message);
  });

  test.each<[string, object, RegExp]>([
    ["no module", {}, /`scheduler.module`.*got `undefined`/],
    ["a name that is no text", { module: "x", export: 3 }, /`scheduler.export`.*got `3`/],
  ])("%s", async (_, scheduler, message) => {
    await expect(answersOf({ scheduler: scheduler as never })).rejects.toThrow(message);
  });

  test.each<[string, () => { module: string; export?: string }, RegExp]>([
    ["a module that is not there", () => ({ module: `${modules}.gone` }), /own\.mjs\.gone cannot be imported/],
    ["an export that is no function", () => ({ module: modules, export: "text" }), /expected `text` to be a function/],
    ["an export that is not there", () => ({ module: modules, export: "best" }), /expected `best` to be a function/],
  ])("%s", async (_, scheduler, message) => {
    await expect(answersOf({ scheduler: scheduler() })).rejects.toMatchObject({
      code: "ERR_MODULE",
      message: expect.stringMatching(message) as string,
    });
  });

  test("a scheduler that breaks its contract ends the engine, with the reason", async () => {
    const answers = answersOf({ scheduler: { module: modules, export: "nobody" } });
    await expect(answers).rejects.toMatchObject({ code: "ERR_ENGINE_FAILED", message: /nobody/ });
  });
});
