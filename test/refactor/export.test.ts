// Exported graphs against PyTorch's numbers and our own engine's, run as transformers.js runs them.

import { copyFile, mkdir, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { openModel, type Model } from "@readme-moe/model";
import { exportTransformersJs, type ExportDtype, type ExportOptions } from "@readme-moe/refactor";
import { describe, expect, test } from "vitest";
import { ExportedModel, lastOf, meanLoss, mostLikely } from "../support/exported-model.ts";
import { fixture, fixtureNames, golden } from "../support/fixtures.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

/** A fixture's folder with a tokenizer, which they do not have; any will do. */
async function withTokenizer(name: string): Promise<string> {
  const folder = join(await temporaryFolder(), "model");
  await mkdir(folder);
  for (const file of await readdir(fixture(name))) await copyFile(join(fixture(name), file), join(folder, file));
  await copyFile(join(POCKET, "tokenizer.json"), join(folder, "tokenizer.json"));
  return folder;
}

async function exported(path: string, options?: ExportOptions): Promise<{ folder: string; model: Model }> {
  const folder = join(await temporaryFolder(), "exported");
  const model = await openModel(path);
  await exportTransformersJs(model, folder, options);
  await model.close();
  return { folder, model };
}

const load = (folder: string, model: Model, file = "model.onnx"): Promise<ExportedModel> =>
  ExportedModel.load(join(folder, "onnx", file), model.config);

function correlation(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function dot(x: ArrayLike<number>, y: ArrayLike<number>): number {
  return Array.from(x).reduce((sum, value, index) => sum + value * (y[index] as number), 0);
}

async function readConfig(folder: string, name = "config.json"): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(folder, name), "utf8")) as Record<string, unknown>;
}

describe.each(fixtureNames("families").filter((one) => one !== "families/gemma2"))("%s", (name) => {
  interface Case {
    readonly input_ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_16: readonly number[];
    readonly smallest_gap?: number;
  }
  const { cases } = golden(name) as { cases: readonly Case[] };

  test("gives PyTorch's logits in one batch padded on the left, and continues from its cache", async () => {
    const { folder, model } = await exported(await withTokenizer(name), { dtypes: ["fp32"] });
    await using graph = await load(folder, model);
    const { vocabSize } = model.config;
    let rows = await graph.start(cases.map((one) => one.input_ids));
    cases.forEach((one, row) => {
      expect(largestDifference(lastOf(rows[row], vocabSize), one.last_logits)).toBeLessThan(1e-3);
    });
    const tokens = cases.map((): number[] => []);
    for (let count = 0; count < 16; count++) {
      tokens.forEach((made, row) => made.push(mostLikely(lastOf(rows[row], vocabSize))));
      rows = await graph.next(tokens.map((made) => made.slice(-1)));
    }
    for (const [row, { greedy_16: greedy, smallest_gap: gap = 1 }] of cases.entries()) {
      if (gap > 0.002) expect(tokens[row]).toEqual(greedy);
    }
  });

  test("gives the same logits however the prompt is cut", async () => {
    const { folder, model } = await exported(await withTokenizer(name), { dtypes: ["fp32"] });
    await using graph = await load(folder, model);
    const { input_ids: ids, last_logits: expected } = cases.at(-1) as Case;
    await graph.start([ids.slice(0, 50), ids.slice(0, 30)]);
    await graph.next([ids.slice(50, 100), ids.slice(30, 80)]);
    const [row] = await graph.next([ids.slice(100), ids.slice(80, 110)]);
    expect(largestDifference(lastOf(row, model.config.vocabSize), expected)).toBeLessThan(1e-3);
  });

  test("runs in 8 and 4 bits with correlated logits", async () => {
    const { folder, model } = await exported(await withTokenizer(name));
    const { input_ids: ids, last_logits: expected } = cases[2] as Case;
    for (const [file, least] of [
      ["model_quantized.onnx", 0.95],
      ["model_q4.onnx", 0.6],
    ] as const) {
      await using graph = await load(folder, model, file);
      const [row] = await graph.start([ids]);
      // Random weights forgive little; a product with a wrong scale or order has nothing in common with the right one.
      expect(correlation(lastOf(row, model.config.vocabSize), expected), file).toBeGreaterThan(least);
    }
  });

  test("has a config with both spellings of RoPE", async () => {
    const { folder } = await exported(await withTokenizer(name), { dtypes: ["q4"] });
    const config = await readConfig(folder);
    const original = await readConfig(fixture(name));
    const { mscale, ...parameters } = original["rope_parameters"] as Record<string, unknown>;
    // The factor of cosines takes the place of what it is computed from; that of queries is 1 in the whole context.
    const left = new Set(["llama_4_scaling_beta", "max_position_embeddings", "mscale_all_dim", "type"]);
    const kept = Object.entries(parameters).filter(([field]) => !left.has(field));
    const computed = mscale === undefined ? {} : { attention_factor: 1, truncate: true };
    expect(config["rope_parameters"]).toEqual({ ...Object.fromEntries(kept), ...computed });
    const byType = original["rope_parameters"] as Record<string, Record<string, unknown>>;
    const scaling = byType["full_attention"] ?? byType;
    expect(config["rope_theta"]).toBe(scaling["rope_theta"]);
    expect((config["rope_scaling"] as Record<string, unknown> | null)?.["factor"]).toBe(scaling["factor"]);
    const ofWindows = byType["sliding_attention"]?.["rope_theta"];
    expect([config["rope_local_base_freq"], config["rope_theta"]]).toContain(ofWindows ?? scaling["rope_theta"]);
    expect(config["transformers.js_config"]).toEqual({ dtype: "q4" });
  });
});

describe("the pocket model", () => {
  test("has our engine's loss in float32, and nearly so in 8 and 4 bits", async () => {
    const { folder, model } = await exported(POCKET);
    const { tokenizer } = await model.loadText();
    const text = await readFile(join(import.meta.dirname, "..", "..", "LICENSE"), "utf8");
    const ids = Array.from(tokenizer.encode(text, { addSpecialTokens: false })).slice(0, 512);
    await using running = await runningModel(POCKET);
    const everyPosition = ids.map((_, position) => position);
    const ours = (await promptLogits(running, ids, everyPosition)).fullLogits;
    const expected = meanLoss(ours, ids, model.config.vocabSize);
    const losses: number[] = [];
    for (const file of ["model.onnx", "model_quantized.onnx", "model_q4.onnx"]) {
      await using graph = await load(folder, model, file);
      const [row] = await graph.start([ids]);
      losses.push(meanLoss(row as Float32Array, ids, model.config.vocabSize));
    }
    expect(Math.abs((losses[0] as number) - expected)).toBeLessThan(1e-4);
    expect(Math.abs((losses[1] as number) - expected)).toBeLessThan(0.05);
    expect(Math.abs((losses[2] as number) - expected)).toBeLessThan(0.1);
  });

  test("is written under every file name that the two libraries read", async () => {
    const { folder } = await exported(POCKET);
    const graphs = await readdir(join(folder, "onnx"));
    expect(graphs.toSorted()).toEqual([
      "decoder_model_merged.onnx",
      "decoder_model_merged_quantized.onnx",
      "model.onnx",
      "model_q4.onnx",
      "model_quantized.onnx",
    ]);
    expect((await readConfig(folder))["transformers.js_config"]).toBeUndefined();
    const config = await readConfig(folder, "tokenizer_config.json");
    expect(config).toMatchObject({ eos_token: "<|endoftext|>", model_max_length: 1024 });
    const { model } = (await readConfig(folder, "tokenizer.json")) as { model: { merges: unknown[] } };
    expect(model.merges.every((merge) => typeof merge === "string")).toBe(true);
  });

  test("has a separate file of weights when the graph would be too large", async () => {
    const { folder, model } = await exported(POCKET, { dtypes: ["fp32", "q8"], maxWholeBytes: 20_000_000 });
    expect(await readdir(join(folder, "onnx"))).toEqual(
      expect.arrayContaining(["model.onnx", "model.onnx_data", "model_quantized.onnx"]),
    );
    expect((await stat(join(folder, "onnx", "model.onnx"))).size).toBeLessThan(1 << 20);
    expect(await readdir(join(folder, "onnx"))).not.toContain("decoder_model_merged.onnx");
    const dataFiles = { use_external_data_format: { "model.onnx": 1 } };
    expect((await readConfig(folder))["transformers.js_config"]).toEqual(dataFiles);
    const { cases } = golden("pocket") as { cases: { input_ids: number[]; greedy_32: number[] }[] };
    await using graph = await load(folder, model);
    const [row] = await graph.start([cases[0]?.input_ids ?? []]);
    expect(mostLikely(lastOf(row, model.config.vocabSize))).toBe(cases[0]?.greedy_32[0]);
  });
});

describe("refusals of exports", () => {
  test.each(["official-fused-residual", "official-separate-residual"])("the mixture %s", async (name) => {
    const model = await openModel(fixture(name));
    const target = join(await temporaryFolder(), "out");
    await expectReadMeError(exportTransformersJs(model, target), "ERR_MODEL_UNSUPPORTED", name, "7 experts", "dense");
    await model.close();
  });

  test("a model without a tokenizer, to a folder that is not empty, or in no precision", async () => {
    const parent = await temporaryFolder();
    const bare = await openModel(fixture("families/qwen3"));
    await expectReadMeError(exportTransformersJs(bare, join(parent, "out")), "ERR_FILE_NOT_FOUND", "tokenizer.json");
    const pocket = await openModel(POCKET);
    await expectReadMeError(exportTransformersJs(pocket, POCKET), "ERR_WRITE_FAILED", "not empty");
    const none: readonly ExportDtype[] = [];
    await expect(exportTransformersJs(pocket, join(parent, "out"), { dtypes: none })).rejects.toThrow(TypeError);
    expect(await readdir(parent)).toEqual([]);
    await Promise.all([bare.close(), pocket.close()]);
  });

  test("leaves no files when a weight cannot be read, or when it is aborted", async () => {
    const parent = await temporaryFolder();
    const model = await openModel(POCKET);
    const abort = new AbortController();
    const onProgress = (): void => abort.abort(new Error("enough"));
    const given = exportTransformersJs(model, join(parent, "out"), { signal: abort.signal, onProgress });
    await expect(given).rejects.toThrow("enough");
    expect(await readdir(parent)).toEqual([]);
    await model.close(); // its weights cannot be read any more
    await expectReadMeError(exportTransformersJs(model, join(parent, "out")), "ERR_WRITE_FAILED", "model.onnx");
    expect(await readdir(parent)).toEqual([]);
  });
});
