// The parts of `npm run bench:engine` that can be wrong without anybody seeing it: what is measured, and how it is summed up.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { exportTransformersJs, openModel, Tokenizer } from "@readme-moe/model";
import { describe, expect, test } from "vitest";
import type { ContenderSpec } from "../../bench/engine/contender.ts";
import { treePeakBytes } from "../../bench/engine/memory.ts";
import { measure, type Measurements } from "../../bench/engine/measure.ts";
import { writeQ8Gguf } from "../../bench/engine/q8-gguf.ts";
import { columnsOf, compare, medianOf, type Result } from "../../bench/engine/results.ts";
import { formatTable } from "../../bench/engine/table.ts";
import { drawPrompts, type Workload } from "../../bench/engine/workload.ts";
import { golden } from "../support/fixtures.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

function measured(tokensPerSecond: number, peakBytes: number, loss?: number): Measurements {
  const decodeTokensPerSecond = { 1: tokensPerSecond };
  const rest = { loadMs: 1, prefillTokensPerSecond: 1, peakBytes };
  return { decodeTokensPerSecond, ...rest, ...(loss === undefined ? {} : { loss }) };
}

function result(engine: ContenderSpec["engine"], ...repetitions: readonly Measurements[]): Result {
  return { spec: { engine, variant: "x" }, repetitions, failure: undefined };
}

describe("results", () => {
  const columns = columnsOf([1]);
  const ours = result("readme-moe", measured(30, 4e6, 2.5), measured(10, 4e6), measured(20, 4e6));
  const fast = result("transformers.js", measured(10, 8e6, 2.6));
  const small = result("node-llama-cpp", measured(5, 2e6, 2.4), measured(7, 2e6));

  test("are medians over the repetitions that have a number", () => {
    const [decode, , , , , , , loss] = columns;
    expect([ours, small].map((one) => medianOf(one, decode as (typeof columns)[0]))).toEqual([20, 6]);
    expect(medianOf(ours, loss as (typeof columns)[0])).toBe(2.5);
    expect(medianOf(result("readme-moe"), decode as (typeof columns)[0])).toBeUndefined();
  });

  test("are compared with whichever peer is best in a column", () => {
    const [{ values } = { values: [] }] = compare([ours, fast, small], columns);
    expect(values.slice(0, 3)).toEqual([2, 1, 2]);
    expect(values[7]).toBeCloseTo(0.1);
    expect(values[4]).toBeUndefined();
  });

  test("are shown with a dash where there is no number, and with why", () => {
    const failed = { ...result("node-llama-cpp"), failure: "its process ended with SIGKILL" };
    const lines = formatTable([ours, fast, failed], columns).split("\n");
    expect(lines).toHaveLength(6);
    expect(lines[3]).toMatch(/^node-llama-cpp x +–/);
    expect(lines[4]).toMatch(/^readme-moe x : best peer +× 2\.00.*-0\.100$/);
    expect(lines[5]).toBe("node-llama-cpp x: its process ended with SIGKILL");
  });
});

describe("the workload", () => {
  const text = Array.from({ length: 400 }, (_, index) => index);
  const sizes = { concurrency: [1, 8], promptTokens: 6, newTokens: 4, prefillTokens: 50 };

  test("is the same for the same seed, and no two prompts begin alike", () => {
    const a = drawPrompts(text, sizes, 3);
    expect(drawPrompts(text, sizes, 3)).toEqual(a);
    expect(drawPrompts(text, sizes, 4)).not.toEqual(a);
    const prompts = [a.warmUp, ...a.batches.flat(), a.longPrompt];
    expect(prompts.map((prompt) => prompt.length)).toEqual([...Array<number>(10).fill(6), 50]);
    expect(new Set(prompts.map(([first]) => first)).size).toBe(11);
  });

  test("wants enough text", () => {
    expect(() => drawPrompts(text.slice(0, 60), sizes, 1)).toThrow(/at least 61 tokens, got 60/);
  });

  test("is measured whole: every batch, the long prompt, and the mean over files of their losses", async () => {
    const calls: string[] = [];
    const contender = {
      generate: (prompts: readonly unknown[], newTokens: number) => {
        calls.push(`${prompts.length}×${newTokens}`);
        return Promise.resolve();
      },
      logProbabilities: (sequences: readonly (readonly number[])[]) =>
        Promise.resolve(sequences.map((sequence) => -2 * (sequence.length - 1) - (sequence[0] ?? 0))),
      dispose: () => Promise.resolve(),
    };
    const texts = [
      [
        [0, 1, 2],
        [4, 5, 6],
      ],
      [[0, 1, 2, 3]],
    ]; // losses 3 and 2
    const workload: Workload = { ...drawPrompts(text, sizes, 1), texts };
    const measurements = await measure(() => Promise.resolve(contender), workload);
    expect(calls).toEqual(["1×8", "1×4", "8×4", "1×1"]);
    expect(measurements.loss).toBeCloseTo(2.5);
    expect(Object.keys(measurements.decodeTokensPerSecond)).toEqual(["1", "8"]);
    expect(measurements.loopDelayMs).toBeDefined();
  });
});

test.skipIf(process.platform !== "linux")("peak memory is that of the process and of those below it", () => {
  const peakBytes = treePeakBytes(process.pid);
  expect(peakBytes).toBeGreaterThan(0.9 * process.memoryUsage.rss());
  expect(treePeakBytes(process.ppid)).toBeGreaterThan(peakBytes);
});

test("the GGUF file for node-llama-cpp is the same model, and exports like one", async () => {
  const folder = await temporaryFolder();
  const pocket = await openModel(POCKET);
  await writeQ8Gguf(pocket, join(folder, "pocket.gguf"));
  await pocket.close();
  const { cases } = golden("pocket") as { cases: { text: string; input_ids: number[] }[] };
  const ids = cases[0]?.input_ids ?? [];
  await using ours = await runningModel(POCKET);
  await using q8 = await runningModel(join(folder, "pocket.gguf"));
  const [expected, actual] = [await promptLogits(ours, ids), await promptLogits(q8, ids)];
  expect(largestDifference(actual.fullLogits, expected.fullLogits)).toBeLessThan(0.5);
  expect(actual.candidateIds[0]).toBe(expected.candidateIds[0]);

  const out = join(folder, "out");
  await exportTransformersJs(q8.model, out, { dtypes: ["q4"] });
  const read = async (name: string): Promise<Record<string, unknown>> =>
    JSON.parse(await readFile(join(out, name), "utf8")) as Record<string, unknown>;
  expect(await read("config.json")).toMatchObject({
    architectures: ["LlamaForCausalLM"],
    num_key_value_heads: 2,
    rope_theta: 10000,
    eos_token_id: 0,
    tie_word_embeddings: true,
  });
  expect(await read("generation_config.json")).toEqual({ bos_token_id: 0, eos_token_id: 0, pad_token_id: 0 });
  const source = { path: out, tokenizer: await read("tokenizer.json"), config: await read("tokenizer_config.json") };
  expect(Array.from(new Tokenizer(source).encode(cases[0]?.text ?? ""))).toEqual(ids);
  expect(source.config).toMatchObject({ eos_token: "<|endoftext|>", add_bos_token: false });
});
