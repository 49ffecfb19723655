// The sampling parameters of a model's files in an engine: the same tokens as with the parameters in the request.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type EngineOptions, ReadMeEngine } from "@readme-moe/engine";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complete } from "../support/complete.ts";
import { POCKET } from "../support/pocket.ts";
import { persistentFolder } from "../support/temporary-folder.ts";

const PROMPT = "The ship was";
const RECOMMENDED = { do_sample: true, temperature: 0.8, top_k: 20, top_p: 0.9, max_new_tokens: 12 };
const SAME = { temperature: 0.8, topK: 20, topP: 0.9, maxTokens: 12 };

let folder: string;
let cacheFolder: string;
let engine: ReadMeEngine;
const open = (options: EngineOptions = {}): Promise<ReadMeEngine> =>
  ReadMeEngine.open(folder, { precision: "fp32", isolation: "thread", threads: 1, cacheFolder, ...options });

beforeAll(async () => {
  cacheFolder = await persistentFolder();
  folder = join(cacheFolder, "model");
  await cp(POCKET, folder, { recursive: true });
  await writeFile(join(folder, "generation_config.json"), JSON.stringify({ eos_token_id: 0, ...RECOMMENDED }));
  engine = await open();
});
afterAll(() => engine.dispose());

test("an engine says what the model recommends", () => {
  expect(engine.info.samplingDefaults).toEqual(SAME);
});

test("a request without parameters samples as one with the recommended ones", async () => {
  for (const seed of [1, 2, 3]) {
    const { ids } = await complete(engine, { prompt: PROMPT, params: { seed } });
    expect(ids).toEqual((await complete(engine, { prompt: PROMPT, params: { ...SAME, seed } })).ids);
  }
});

test("what a request says wins", async () => {
  const params = { temperature: 0, topK: 0, topP: 1, maxTokens: 5 };
  const { ids } = await complete(engine, { prompt: PROMPT, params });
  const { ids: greedy } = await complete(engine, { prompt: PROMPT, params: { temperature: 0, maxTokens: 5 } });
  expect(ids).toEqual(greedy);
});

test("without them the defaults are those of a model that recommends nothing", async () => {
  await using plain = await open({ samplingDefaults: "none" });
  expect(plain.info.samplingDefaults).toEqual({});
  const params = { seed: 5, maxTokens: 12 };
  const full = { ...params, temperature: 1, topK: 0, topP: 1 };
  const { ids } = await complete(plain, { prompt: PROMPT, params });
  expect(ids).toEqual((await complete(engine, { prompt: PROMPT, params: full })).ids);
});
