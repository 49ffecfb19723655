// Kept and saved prompts, and beginnings on disk, change no bit: what follows one has the tokens and log-probabilities
// that it has without, in every precision and kind of model, in this engine and in the next one.

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type EngineOptions, ReadMeEngine } from "@readme-moe/engine";
import { beforeAll, describe, expect, test } from "vitest";
import { completeAll } from "../../support/complete.ts";
import { writeAdaptersOf, writeExpertBase } from "../../support/expert-engine.ts";
import { RUNS_LONG_TESTS } from "../../support/long-tests.ts";
import { POCKET } from "../../support/pocket.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { TINY_MIXTURE, writeRandomMixture } from "../../support/random-mixture.ts";
import { writeReadingModel } from "../../support/reading-model.ts";
import { persistentFolder, temporaryFolder } from "../../support/temporary-folder.ts";

const random = seededRandom(20_261_128);
const ids = (length: number): readonly number[] => Array.from({ length }, () => 1 + randomInteger(random, 4000));
/** Two chunks of 64 tokens, a page of 16, and 6 tokens that no page holds. */
const BEGINNING = ids(150);
const KEPT_TOKENS = 144;
const PROMPTS = [[...BEGINNING, ...ids(50)], BEGINNING];
/** Four chunks, and what is computed behind them. */
const LONG = ids(300);
const LONG_PROMPTS = [[...LONG, ...ids(15)], LONG];
const SHARED = { isolation: "thread", threads: 2, chunkTokens: 64, maxNumBatchedTokens: 128 } as const;

let folder: string;
let paths: Readonly<Record<"dense" | "experts" | "low-rank" | "mixture", string>>;
beforeAll(async () => {
  folder = await persistentFolder();
  paths = {
    dense: POCKET,
    experts: join(folder, "experts"),
    "low-rank": join(folder, "low-rank"),
    mixture: join(folder, "mixture"),
  };
  await writeReadingModel(paths.experts, { config: { max_position_embeddings: 512 } });
  await writeExpertBase(paths["low-rank"]);
  await writeAdaptersOf(paths["low-rank"], {
    [join(folder, "formal")]: { seed: 3 },
    [join(folder, "short")]: { seed: 4 },
  });
  await writeRandomMixture(paths.mixture, { ...TINY_MIXTURE, vocabSize: 4096 }, { hasTokenizer: true });
});

/** Every number of the answers to all prompts, and their cached tokens. */
async function answersOf(engine: ReadMeEngine, expert: string | undefined, prompts = PROMPTS) {
  const answers = [];
  const cached = [];
  for (const [index, prompt] of prompts.entries()) {
    const params = { maxTokens: 6, logprobs: 5, n: 2, seed: index, temperature: 0.8, ignoreEos: true };
    const { choices, usage } = await completeAll(engine, { prompt, expert, params });
    answers.push(choices.map(({ tokens }) => tokens));
    cached.push((usage?.cachedTokens ?? 0) / 2);
  }
  return { answers, cached };
}

interface Case {
  readonly model: keyof typeof paths;
  readonly options: EngineOptions;
  readonly expert?: string;
  /** Whether only the long tests try it. @default false */
  readonly isLong?: boolean;
}

const lorasOf = (): EngineOptions => ({ loras: { formal: join(folder, "formal"), short: join(folder, "short") } });

const ALL_CASES: readonly Case[] = [
  { model: "dense", options: { precision: "int8" }, isLong: true },
  { model: "dense", options: { precision: "int4", kvPrecision: "fp32" }, isLong: true },
  { model: "experts", options: { precision: "fp32" }, isLong: true },
  { model: "dense", options: { precision: "fp32" } },
  { model: "experts", options: { precision: "int4", kvPrecision: "int8" } },
  { model: "experts", options: { precision: "int8", expertCacheBytes: 40_000 } },
  { model: "low-rank", options: { precision: "int8" }, expert: "short" },
  { model: "mixture", options: { precision: "int8" } },
];
const CASES = ALL_CASES.filter(({ isLong = false }) => RUNS_LONG_TESTS || !isLong);

describe.each(CASES)("$model $options $expert", ({ model, options, expert }) => {
  test("the answers are those without", async () => {
    const own = { ...SHARED, ...options, ...(model === "low-rank" ? lorasOf() : {}) };
    const savedPromptsFolder = await temporaryFolder();
    const events: object[] = [];
    const open = async (more: EngineOptions): Promise<ReadMeEngine> => {
      const engine = await ReadMeEngine.open(paths[model], { ...own, ...more });
      engine.events.on("prompt:kept", ({ durationMs: _durationMs, ...event }) => events.push(event));
      return engine;
    };
    const plain = await open({ prefixCacheBytes: 0 });
    const expected = await answersOf(plain, expert);
    await plain.dispose();
    expect(expected.cached).toEqual([0, 0]);

    const sizes = { promptTokens: BEGINNING.length, keptTokens: KEPT_TOKENS };
    for (const source of ["computed", "saved"] as const) {
      const engine = await open({ savedPromptsFolder, threads: source === "saved" ? 1 : 2 });
      const kept = await engine.keepPrompt(BEGINNING, { expert });
      expect(kept).toMatchObject({ ...sizes, source });
      expect(events.splice(0)).toEqual([{ ...sizes, source, refusal: undefined, saveFailure: undefined }]);
      // The second choice of the first prompt waits for three chunks of the first one.
      expect(await answersOf(engine, expert)).toEqual({ ...expected, cached: [(KEPT_TOKENS + 192) / 2, KEPT_TOKENS] });
      await kept.release();
      await engine.dispose();
      expect(await readdir(savedPromptsFolder)).toHaveLength(1);
    }
  });
});

/** Those of the cases whose models have a context that is long enough. */
const DISK_CASES = CASES.filter(({ model }) => model !== "low-rank");

test.each(DISK_CASES)("$model $options: beginnings on disk give the answers without", async ({ model, options }) => {
  const cacheFolder = await temporaryFolder();
  const open = (more: EngineOptions): Promise<ReadMeEngine> =>
    ReadMeEngine.open(paths[model], { ...SHARED, ...options, cacheFolder, ...more });
  const plain = await open({ prefixCacheBytes: 0 });
  const expected = await answersOf(plain, undefined, LONG_PROMPTS);
  await plain.dispose();
  for (const isFirst of [true, false]) {
    const engine = await open({ prefixDiskBytes: 1e8, threads: isFirst ? 2 : 1 });
    const { answers, cached } = await answersOf(engine, undefined, LONG_PROMPTS);
    expect(answers).toEqual(expected.answers);
    if (!isFirst) expect(cached).toEqual([256, 256]);
    expect((await engine.stats()).diskTokens).toBeGreaterThanOrEqual(isFirst ? 0 : 256);
    await engine.dispose();
  }
});

test("other models, precisions and experts do not read a saved prompt", async () => {
  const savedPromptsFolder = await temporaryFolder();
  const base = { ...SHARED, savedPromptsFolder, precision: "int8" as const };
  const sourceOf = async (model: keyof typeof paths, options: EngineOptions, expert?: string): Promise<string> => {
    await using engine = await ReadMeEngine.open(paths[model], { ...base, ...options });
    return (await engine.keepPrompt(BEGINNING, { expert })).source;
  };
  const loras = lorasOf();
  expect(await sourceOf("low-rank", loras, "short")).toBe("computed");
  expect(await sourceOf("low-rank", loras, "short")).toBe("saved");
  expect(await sourceOf("low-rank", loras, "formal")).toBe("computed");
  expect(await sourceOf("low-rank", loras, "none")).toBe("computed");
  expect(await sourceOf("low-rank", { ...loras, precision: "int4" }, "short")).toBe("computed");
  expect(await sourceOf("low-rank", { ...loras, kvPrecision: "fp32" }, "short")).toBe("computed");
  expect(await sourceOf("low-rank", { ...loras, kvPrecision: "int8" }, "short")).toBe("computed");
  expect(await sourceOf("low-rank", { ...loras, loraPrecision: "fp32" }, "short")).toBe("computed");
  expect(await sourceOf("dense", {})).toBe("computed");
  // Products of float32 are fused in the addon only.
  expect(await sourceOf("low-rank", { ...loras, kernel: "wasm" }, "short")).toBe("computed");
  // An expert is what it computes, whatever its name and number are.
  const renamed = { other: join(folder, "formal"), third: join(folder, "short") };
  expect(await sourceOf("low-rank", { loras: { third: renamed.third, other: renamed.other } }, "third")).toBe("saved");
  expect(await readdir(savedPromptsFolder)).toHaveLength(9);
});
