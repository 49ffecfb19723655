// Whole refactorings of the pocket model's first layers, with small options.

import { existsSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { evaluateSequences } from "@readme-moe/engine/evaluation";
import { endOfTextId, openModel, verifyModel, type Model } from "@readme-moe/model";
import { refactor, type RefactorOptions, type RefactorRun, type Report } from "@readme-moe/refactor";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { prepareDomain } from "../../packages/refactor/src/job/prepare-domain.ts";
import { modelHashes } from "../support/model-hashes.ts";
import { POCKET } from "../support/pocket.ts";
import { writeFirstLayers } from "../support/first-layers.ts";
import { LITTLE, pocketTexts } from "../support/pocket-texts.ts";
import { runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";

/** Models of the first layers, by their number: what is the same in each layer needs one. */
const models = new Map<number, Model>();
let out: string;
let report: Report;
const texts = await pocketTexts();
let pocket: Model;

beforeAll(async () => {
  const folder = await persistentFolder();
  out = join(folder, "model");
  for (const numLayers of [1, 2, 3]) {
    const path = join(folder, `${numLayers}`);
    await writeFirstLayers(POCKET, path, numLayers);
    models.set(numLayers, await openModel(path));
  }
  pocket = models.get(3)!;
  report = await refactor(pocket, texts, out, { ...LITTLE, threads: 1, source: "pocket" });
});
afterAll(async () => {
  for (const model of models.values()) await model.close();
});

function meanOf(id: string): number {
  return report.losses.find((row) => row.id === id)?.mean ?? NaN;
}

describe("the written model", () => {
  test("is a valid Read-ME model with report, card and pictures, and no unfinished work remains", async () => {
    const model = await openModel(out);
    await verifyModel(model);
    expect(model.kind).toBe("read-me");
    expect(model.experts).toMatchObject({ names: ["arxiv", "book", "github"], sharedSizes: [0, 0, 0] });
    expect(model.experts.expertSizes).toEqual([512, 512, 512]);
    expect(model.router?.config.numExperts).toBe(3);
    await model.close();
    expect(JSON.parse(await readFile(join(out, "report.json"), "utf8"))).toEqual(JSON.parse(JSON.stringify(report)));
    expect(await readFile(join(out, "README.md"), "utf8")).toContain("github");
    expect((await readdir(join(out, "pictures"))).length).toBeGreaterThan(3);
    expect(existsSync(`${out}.unfinished`)).toBe(false);
  });

  test("has the loss of its report when it is served", async () => {
    await using running = await runningModel(out);
    const { tokenizer } = await running.model.loadText();
    const endOfText = endOfTextId(tokenizer, pocket.config.eosTokenIds);
    const shared = { calibrationTokens: 512, routerTokens: 512, evaluationSequences: 1, sequenceTokens: 128, seed: 1 };
    const ours = report.losses.find((row) => row.id === "ours");
    for (const text of texts) {
      const { evaluation } = prepareDomain(text, tokenizer, { ...shared, endOfText });
      const { loss } = await evaluateSequences(running, evaluation);
      expect(loss).toBeCloseTo(ours?.losses[text.name] as number, 3);
    }
  });

  test("is better than random experts, and worse than the dense model", () => {
    expect(report.losses.map(({ id }) => id)).toEqual([
      "dense",
      "paper",
      "random",
      "static",
      "oracle_domain",
      "oracle_token",
      "free",
      "ours",
    ]);
    expect(meanOf("oracle_domain")).toBeLessThan(meanOf("random"));
    expect(meanOf("dense")).toBeLessThan(meanOf("ours"));
    for (const row of report.losses) expect(row.mean - meanOf("dense")).toBeCloseTo(row.above_dense, 6);
  });
});

async function refactorTo(folder: string, options: RefactorOptions & RefactorRun, numLayers = 1): Promise<Report> {
  const least = { calibrationTokens: 256, routerTokens: 128, routerSteps: 3, sequenceTokens: 64, baselines: false };
  return refactor(models.get(numLayers)!, texts, folder, { ...LITTLE, ...least, ...options, threads: 1 });
}

test("has the dense model's loss when every expert has all neurons", async () => {
  const full = await refactorTo(join(await temporaryFolder(), "model"), { expertSize: 1 }, 2);
  const [dense, ours] = ["dense", "ours"].map((id) => full.losses.find((row) => row.id === id)?.mean as number);
  expect(Math.abs((ours as number) - (dense as number))).toBeLessThan(2e-3);
});

test.each([
  { method: "paper" },
  { method: "select", experts: 4 },
  { method: "refit", sharedSize: 0.25 },
  { experts: 1 },
  { experts: 2, expertsFrom: "clusters" },
] as const)("writes a model that opens with %j", async (options) => {
  const folder = join(await temporaryFolder(), "model");
  const { losses } = await refactorTo(folder, options);
  expect(losses.find((row) => row.id === "ours")?.above_dense).toBeLessThan(2);
  const model = await openModel(folder);
  await verifyModel(model);
  expect(model.experts.names).toHaveLength("experts" in options ? options.experts : 3);
  await model.close();
});

test("writes the same model for the same options", async () => {
  const parent = await temporaryFolder();
  const [first, second] = ["first", "second"].map((name) => join(parent, name)) as [string, string];
  for (const folder of [first, second]) await refactorTo(folder, {});
  expect(await modelHashes(second)).toEqual(await modelHashes(first));
});

test("chooses the shared size of each layer", async () => {
  const folder = join(await temporaryFolder(), "model");
  const { layers, losses } = await refactorTo(folder, { sharedSize: "auto" }, 2);
  expect(layers).toHaveLength(2);
  for (const { expert_size: expert, shared_size: shared } of layers) {
    expect([0, 128, 256]).toContain(shared);
    expect(expert + shared).toBe(512);
  }
  expect(losses.find((row) => row.id === "ours")?.above_dense).toBeLessThan(0.5);
});

test("divides a budget among the layers, and serves layers of different sizes", async () => {
  const parent = await temporaryFolder();
  const [folder, named] = [join(parent, "model"), join(parent, "named")];
  const { layers, losses, settings, size, base } = await refactorTo(folder, { budget: 0.9, sharedSize: "auto" }, 2);
  const used = layers.map(({ expert_size: expert, shared_size: shared }) => expert + shared);
  expect(used.every((neurons) => neurons >= 256 && neurons <= 1024 && neurons % 32 === 0)).toBe(true);
  expect(new Set(used).size).toBe(2);
  // A larger size of any layer would exceed the budget.
  const read = size.active_parameters - size.router_parameters;
  expect(read / base.parameters).toBeLessThanOrEqual(0.9);
  expect((read + 3 * 32 * base.hidden_size) / base.parameters).toBeGreaterThan(0.9);
  expect(settings.options).toMatchObject({ budget: 0.9 });
  await refactorTo(named, { layerSizes: used, sharedSize: "auto" }, 2);
  // Only the options that config.json names are others.
  const [ofNamed, ofBudget] = [await modelHashes(named), await modelHashes(folder)];
  expect({ ...ofNamed, "config.json": "" }).toEqual({ ...ofBudget, "config.json": "" });
  await using running = await runningModel(folder);
  const { tokenizer } = await running.model.loadText();
  const [text] = texts;
  const data = { calibrationTokens: 256, routerTokens: 128, evaluationSequences: 1, sequenceTokens: 64, seed: 1 };
  const { evaluation } = prepareDomain(text!, tokenizer, {
    ...data,
    endOfText: endOfTextId(tokenizer, pocket.config.eosTokenIds),
  });
  const { loss } = await evaluateSequences(running, evaluation);
  expect(loss).toBeCloseTo(losses.find((row) => row.id === "ours")?.losses[text!.name] as number, 3);
});

test("resumes behind the last layer that was measured or fitted", async () => {
  const parent = await temporaryFolder();
  const [whole, stopped] = [join(parent, "whole"), join(parent, "stopped")];
  await refactorTo(whole, { budget: 0.8 }, 2);
  for (const last of ["sizes", "layers"]) {
    const abort = new AbortController();
    const onProgress: RefactorRun["onProgress"] = ({ stage, done }) => {
      if (stage === last && done === 1) abort.abort(new Error("enough"));
    };
    const run = { signal: abort.signal, onProgress, checkpointMs: 0, resume: true };
    await expect(refactorTo(stopped, { budget: 0.8, ...run }, 2)).rejects.toThrow("enough");
  }
  await refactorTo(stopped, { budget: 0.8, resume: true }, 2);
  expect(await modelHashes(stopped)).toEqual(await modelHashes(whole));
});

test("shares the neurons that all domains select with the paper's method", async () => {
  const folder = join(await temporaryFolder(), "model");
  const { layers } = await refactorTo(folder, { method: "paper", officialCount: true }, 2);
  for (const { expert_size: expert, shared_size: shared } of layers) {
    expect(shared).toBeGreaterThan(0);
    expect(expert + shared).toBe(511);
  }
});

describe("rejects before any long work", () => {
  test.each([
    [{ expertSize: 0 }, "expertSize"],
    [{ expertSize: 2000 }, "expertSize"],
    [{ expertSize: 0.5, sharedSize: 0.5 }, "sharedSize"],
    [{ method: "best" }, "method"],
    [{ method: "paper", sharedSize: 0.25 }, "sharedSize"],
    [{ officialCount: true }, "officialCount"],
    [{ budget: 0.01 }, "`budget` to be at least 0."],
    [{ budget: 1.5 }, "budget"],
    [{ budget: 0.6, expertSize: 0.5 }, "`expertSize` without `budget`"],
    [{ budget: 0.6, sharedSize: 0.25 }, "sharedSize"],
    [{ layerSizes: [512] }, "`layerSizes` to have 3 numbers"],
    [{ layerSizes: [512, 512, 1025] }, "layerSizes[2]"],
    [{ calibrationTokens: 1.5 }, "calibrationTokens"],
    [{ expretSize: 0.5 }, "expertSize"],
  ])("%j", async (options, named) => {
    const folder = join(await temporaryFolder(), "model");
    const run = refactor(pocket, texts, folder, options as RefactorOptions);
    await expect(run).rejects.toThrow(named);
    expect(existsSync(`${folder}.unfinished`)).toBe(false);
  });

  test("no text, too little text, and equal names", async () => {
    const folder = join(await temporaryFolder(), "model");
    await expect(refactor(pocket, [], folder)).rejects.toThrow(RangeError);
    const tiny = { name: "tiny", files: [], documents: ["too little"] };
    await expect(refactor(pocket, [...texts, tiny], folder)).rejects.toThrow(/"tiny"/);
    await expect(refactor(pocket, [texts[0]!, texts[0]!], folder)).rejects.toThrow(/different/);
  });

  test("a mixture, and a folder that is not empty", async () => {
    const mixture = await openModel(out);
    await expect(refactor(mixture, texts, join(await temporaryFolder(), "model"))).rejects.toThrow(/mixture/);
    await mixture.close();
    await expect(refactor(pocket, texts, out)).rejects.toThrow(/not empty/);
  });

  test("unfinished work of other options, or without resume", async () => {
    const folder = join(await temporaryFolder(), "model");
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(refactor(pocket, texts, folder, { ...LITTLE, signal })).rejects.toThrow("enough");
    await expect(refactor(pocket, texts, folder, LITTLE)).rejects.toThrow(/resume/);
    await expect(refactor(pocket, texts, folder, { ...LITTLE, seed: 2, resume: true })).rejects.toThrow(/other/);
    await writeFile(join(folder + ".unfinished", "job.json"), "damaged");
    await expect(refactor(pocket, texts, folder, { ...LITTLE, resume: true })).rejects.toThrow(/unfinished/);
  });
});
