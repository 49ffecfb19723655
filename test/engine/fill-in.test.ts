// Texts with a gap, through an engine and through a reader of prompts.

import { join } from "node:path";
import type { FillInPrompt } from "@readme-moe/core";
import { openPromptReader, type ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete, completeAll } from "../support/complete.ts";
import { QWEN_MARKS, withFillInMarks } from "../support/fill-in-model.ts";
import { openTinyEngine } from "../support/served-model.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const GAP = { prefix: "The captain ", suffix: " the ship" };
const WRITTEN = `${QWEN_MARKS.prefix}The captain ${QWEN_MARKS.suffix} the ship${QWEN_MARKS.middle}`;

describe("an engine", () => {
  let folder: string;
  let engine: ReadMeEngine;
  let without: ReadMeEngine;
  beforeAll(async () => {
    folder = await persistentFolder();
    engine = await openTinyEngine(join(folder, "marked"), {}, await withFillInMarks());
    without = await openTinyEngine(join(folder, "unmarked"));
  });
  afterAll(async () => {
    await engine.dispose();
    await without.dispose();
  });

  test("says whether its model fills gaps, as a reader of its prompts does", async () => {
    expect(without.info.fillIn).toBeUndefined();
    const prefix = { id: 4096, text: QWEN_MARKS.prefix };
    expect(engine.info.fillIn).toMatchObject({ family: "qwen2.5-coder", prefix });
    const ids = await engine.tokenize(`<|endoftext|>${Object.values(QWEN_MARKS).join("")}`);
    expect(new Set(engine.info.fillIn?.endTokenIds)).toEqual(new Set(ids));
    await using reader = await openPromptReader(join(folder, "marked", "tiny"));
    expect(reader.info.fillIn).toEqual(engine.info.fillIn);
    expect(await reader.tokenize(GAP)).toEqual(await engine.tokenize(GAP));
  });

  test("answers as with marks that are written by hand", async () => {
    const ids = await engine.tokenize(WRITTEN);
    expect(await engine.tokenize(GAP)).toEqual(ids);
    expect((await engine.route(GAP)).tokenIds).toEqual(ids);
    const params = { temperature: 0, maxTokens: 8 };
    const byHand = await complete(engine, { prompt: WRITTEN, params });
    const { choices, usage } = await completeAll(engine, { prompt: GAP, params });
    expect(choices[0]).toEqual(byHand);
    expect(usage?.promptTokens).toBe(ids.length);
  });

  const ends = (): readonly number[] => engine.info.fillIn?.endTokenIds ?? [];

  test("ends at each of the marks, and goes on behind them only where it is told to", async () => {
    for (const id of ends()) {
      const params = { temperature: 0, maxTokens: 3, logitBias: { [id]: 100 } };
      const answer = await complete(engine, { prompt: GAP, params });
      expect(answer).toMatchObject({ ids: [id], text: "", finishReason: "stop" });
      for (const prompt of [WRITTEN, await engine.tokenize(WRITTEN)]) {
        expect((await complete(engine, { prompt, params })).ids).toEqual([id]);
      }
      expect((await complete(engine, { prompt: GAP, params: { ...params, ignoreEos: true } })).ids).toHaveLength(3);
    }
    const [file = -1] = await engine.tokenize(QWEN_MARKS.file);
    const other = { prompt: "The captain", params: { temperature: 0, maxTokens: 3, logitBias: { [file]: 100 } } };
    expect((await complete(engine, other)).ids).toHaveLength(3);
    const stopTokenIds = Array.from({ length: 4000 }, (_, id) => id).slice(5, 8);
    const params = { temperature: 0, maxTokens: 3, logitBias: { 6: 100 }, stopTokenIds };
    expect((await complete(engine, { prompt: GAP, params })).ids).toEqual([6]);
  });

  test("leaves other files out beyond three quarters of the context", async () => {
    const { contextTokens } = engine.info;
    const text = "a b ".repeat(contextTokens / 16);
    const files = Array.from({ length: 20 }, (_, index) => ({ name: `${index}.ts`, text }));
    const ids = await engine.tokenize({ ...GAP, files });
    expect(ids.length).toBeLessThanOrEqual(0.75 * contextTokens);
    expect(ids.length).toBeGreaterThan(0.5 * contextTokens);
    expect((await engine.route({ ...GAP, files })).tokenIds).toEqual(ids);
    const kept = await engine.detokenize(ids);
    expect(kept).toContain("\n<|file_sep|>19.ts\n");
    expect(kept).not.toContain("<|file_sep|>0.ts\n");
    const long = "a b ".repeat(contextTokens);
    await expect(complete(engine, { prompt: { ...GAP, prefix: long } })).rejects.toThrow("context");
  });

  test("keeps the beginning of a text with a gap", async () => {
    await using keeping = await openTinyEngine(join(folder, "keeping"), {}, await withFillInMarks());
    const kept = await keeping.keepPrompt(GAP);
    expect(kept.promptTokens).toBe((await keeping.tokenize(GAP)).length);
    await kept.release();
  });

  test.each([
    [{ prefix: 1, suffix: "" }, "prompt.prefix"],
    [{ prefix: "" }, "prompt.suffix"],
    [{ ...GAP, files: "x" }, "prompt.files"],
    [{ ...GAP, files: [null] }, "prompt.files[0].name"],
    [{ ...GAP, files: [{ name: "x" }] }, "prompt.files[0].text"],
    [{ ...GAP, repository: 1 }, "prompt.repository"],
    [{ ...GAP, more: 1 }, "more"],
  ])("refuses %j, naming %s", async (wrong, name) => {
    const prompt = wrong as unknown as FillInPrompt;
    expect(() => engine.generate({ prompt })).toThrow(TypeError);
    expect(() => engine.generate({ prompt })).toThrow(name);
    await expect(engine.tokenize(prompt)).rejects.toThrow(name);
    await expect(engine.route(prompt)).rejects.toThrow(name);
  });

  test("refuses gaps that its model cannot fill", async () => {
    expect(() => without.generate({ prompt: GAP })).toThrow(/marks to fill in the middle/);
    await expect(without.tokenize(GAP)).rejects.toThrow(TypeError);
  });
});
