// Parts of the engine suite whose errors would not be noticed in its results: measurements and summaries.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openModel, Tokenizer } from "@readme-moe/model";
import { exportTransformersJs } from "@readme-moe/refactor";
import { describe, expect, test } from "vitest";
import { peakMemoryBytes } from "../../bench/engine/process-memory.ts";
import type { Sample } from "../../bench/kit/samples.ts";
import { bestPeerTable, type ComparedColumn, toBestPeer, turnsTable } from "../../bench/engine/peer-tables.ts";
import { engineReport } from "../../bench/engine/engine-report.ts";
import { measure } from "../../bench/engine/measure.ts";
import { METRICS } from "../../bench/engine/metrics.ts";
import { OpenProcess } from "../../bench/engine/contender-process.ts";
import { drawPrompts, type Workload } from "../../bench/engine/workload.ts";
import { writeQ8Gguf } from "../support/gguf/convert-model.ts";
import { golden } from "../support/fixtures.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

function sample(variant: string, metric: string, value: number, turn = 0): Sample {
  return { variant, metric, value, turn, at: [METRICS.decode, "speed"].includes(metric) ? 8 : "", round: turn };
}

function isOurs(variant: string): boolean {
  return variant.startsWith("readme-moe");
}

/** Library that computes on the calling thread. */
function block(ms: number): readonly number[] {
  for (const endMs = performance.now() + ms; performance.now() < endMs;);
  return [1];
}

describe("our engine beside the best peer", () => {
  const samples = [
    ...[30, 10, 20].map((value, turn) => sample("readme-moe x", "speed", value, turn)),
    sample("readme-moe x", "loss", 2.5),
    sample("readme-moe x", "load", 2),
    sample("transformers.js x", "speed", 10),
    sample("transformers.js x", "loss", 2.6),
    ...[5, 7].map((value, turn) => sample("node-llama-cpp x", "speed", value, turn)),
    sample("node-llama-cpp x", "loss", 2.4),
  ];
  const speed: ComparedColumn = { title: "8", metric: "speed", at: 8, better: "higher" };
  const loss: ComparedColumn = { title: "loss", metric: "loss", better: "lower", compare: "difference" };
  const load: ComparedColumn = { title: "load", metric: "load", better: "lower" };
  const metrics: Readonly<Record<string, string>> = { speed: METRICS.decode, loss: METRICS.loss };
  const decoded = samples.flatMap((one) => {
    const metric = metrics[one.metric];
    return metric === undefined ? [] : [{ ...one, metric }];
  });
  const sizes = { concurrency: [8], promptTokens: 64, newTokens: 32, contexts: [], contextTokens: 16 };
  const settings = { model: "", dense: undefined, data: [], quick: true, rounds: 1, seed: 1, threads: 1 };

  test("compares medians with the best peer of each column", () => {
    expect(toBestPeer(samples, "readme-moe x", speed, isOurs)).toBe(2);
    expect(toBestPeer(samples, "readme-moe x", { ...speed, better: "lower" }, isOurs)).toBe(20 / 6);
    expect(toBestPeer(samples, "readme-moe x", loss, isOurs)).toBeCloseTo(0.1);
    expect(toBestPeer(samples, "readme-moe x", load, isOurs)).toBeUndefined();
  });

  test("shows a dash for a missing number, and no row without any", () => {
    expect(bestPeerTable(samples, [speed, loss, load], isOurs)?.rows).toEqual([
      ["readme-moe x", "× 2.00", "+0.100", "–"],
    ]);
    expect(bestPeerTable(samples, [load], isOurs)).toBeUndefined();
  });

  test("has its own table for OpenVINO, which does not hide Node libraries", () => {
    const openVino = [sample("openvino int8", METRICS.decode, 40), sample("openvino int8", METRICS.loss, 2.3)];
    const measured = { samples: [...decoded, ...openVino], failures: new Map<string, string>() };
    const { tables } = engineReport({ ...settings, cacheFolder: undefined, set: {} }, sizes, measured, {
      samples: [],
      failures: new Map(),
    });
    const cellsOf = (title: string) => tables.find((table) => table.title.startsWith(title))?.rows;
    expect(cellsOf("Ours by the best peer in Node")).toEqual([["readme-moe x", "× 2.00", "+0.100"]]);
    expect(cellsOf("Ours by OpenVINO")).toEqual([["readme-moe x", "× 0.50", "+0.200"]]);
  });
});

/** Makes a contender with this code. */
function opening(code: string) {
  const module = `data:text/javascript,${encodeURIComponent(code)}`;
  const spec = { engine: "made", variant: "up", module, files: {} };
  return { spec, threads: 1, maxSequences: 1, seed: 1, cacheFolder: undefined };
}

function ofRound(variant: string, round: number, value: number, at = 1): Sample {
  return { variant, metric: "speed", at, value, round, turn: round };
}

describe("contenders that take turns", () => {
  const options = { title: "", seed: 1, isOurs };

  test("are compared by ratios of medians over their common rounds", () => {
    const samples = [
      // The machine becomes half as fast, and ours is twice as fast in each round.
      ...[40, 40, 20, 20].map((value, round) => ofRound("readme-moe x", round, value)),
      ...[20, 20, 10, 10].map((value, round) => ofRound("peer x", round, value)),
      ofRound("readme-moe x", 4, 1000),
      ofRound("readme-moe x", 0, 3, 8),
    ];
    const table = turnsTable(samples, options);
    expect(table?.columns).toEqual(["", "1 at once", "8 at once"]);
    expect(table?.rows).toEqual([
      ["readme-moe x", "40.0", "3.00"],
      ["peer x", "15.0", "–"],
      ["readme-moe x / peer x", "2.00 (2.00 to 2.00)", "–"],
    ]);
    expect(turnsTable([], options)).toBeUndefined();
  });

  test("stay open, answer one after the other, and report errors", async () => {
    const sizes = { promptTokens: 1, newTokens: 1 };
    const waiting = `export const open = async () => ({
      generate: (prompts, tokens) => tokens === 13
        ? Promise.reject(new Error("13 is too many"))
        : tokens === 7 ? process.exit(3) : new Promise((resolve) => setTimeout(resolve, tokens)),
    })`;
    const one = await OpenProcess.start(opening(waiting), sizes);
    for (const tokens of [5, 50]) expect((await one.generate([[1]], tokens)).elapsedMs).toBeGreaterThan(tokens - 2);
    await expect(one.generate([[1]], 13)).rejects.toThrow("13 is too many");
    await expect(one.generate([[1]], 7)).rejects.toThrow("its process ended with code 3");
    await one.close();
    await expect(OpenProcess.start(opening("export {}"), sizes)).rejects.toThrow(/open/);
  });
});

describe("the workload", () => {
  const text = Array.from({ length: 400 }, (_, index) => index);
  const sizes = { concurrency: [1, 8], promptTokens: 6, newTokens: 4, contexts: [20, 50], contextTokens: 3 };

  test("is the same for the same seed, and its prompts share no prefix", () => {
    const a = drawPrompts(text, sizes, 3);
    expect(drawPrompts(text, sizes, 3)).toEqual(a);
    expect(drawPrompts(text, sizes, 4)).not.toEqual(a);
    const prompts = [a.warmUp, ...a.batches.flat(), ...a.longPrompts];
    expect(prompts.map((prompt) => prompt.length)).toEqual([...Array<number>(10).fill(6), 20, 50]);
    expect(new Set(prompts.map(([first]) => first)).size).toBe(12);
  });

  test("requires enough text", () => {
    expect(() => drawPrompts(text.slice(0, 60), sizes, 1)).toThrow(/at least 62 tokens, got 60/);
  });

  test("measures every batch, the long prompt, and the mean loss over files", async () => {
    const calls: string[] = [];
    const contender = {
      generate: (prompts: readonly unknown[], newTokens: number) => {
        calls.push(`${prompts.length}×${newTokens}`);
        return Promise.resolve(prompts.map((_, index) => index + 1));
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
    const figures = await measure(() => Promise.resolve(contender), workload);
    expect(calls).toEqual(["1×8", "1×4", "8×4", "1×3", "1×3"]);
    const valueOf = (metric: string, at?: number) =>
      figures.find((one) => one.metric === metric && one.at === at)?.value;
    expect(valueOf("loss, nats")).toBeCloseTo(2.5);
    expect(figures.flatMap(({ metric, at }) => (metric === "new tokens, tok/s" ? [at] : []))).toEqual([1, 8]);
    expect(valueOf("first token, ms", 8)).toBe(4.5);
    expect(valueOf("prefill, tok/s", 50)).toBe(50_000);
    expect(valueOf("event loop max, ms")).toBeGreaterThan(0);
  });

  test("measures how long a contender blocks the event loop, even until its end", async () => {
    const contender = {
      generate: async () => block(60),
      logProbabilities: () => Promise.resolve([]),
      dispose: () => Promise.resolve(),
    };
    const workload: Workload = { ...drawPrompts(text, { ...sizes, concurrency: [8], contexts: [] }, 1), texts: [] };
    const figures = await measure(() => Promise.resolve(contender), workload);
    expect(figures.find(({ metric }) => metric === "event loop max, ms")?.value).toBeGreaterThan(50);
  });
});

test.skipIf(process.platform !== "linux")("peak memory is that of the process and of those below it", () => {
  const peakBytes = peakMemoryBytes(process.pid);
  expect(peakBytes).toBeGreaterThan(0.9 * process.memoryUsage.rss());
  expect(peakMemoryBytes(process.ppid)).toBeGreaterThan(peakBytes);
});

test("the GGUF file for node-llama-cpp is the same model, and can be exported", async () => {
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
