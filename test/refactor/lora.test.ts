// Training of experts of low rank: which text each learns from, what is refused, and the folder that is written.

import { existsSync } from "node:fs";
import { cp, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { KernelRunner, openExperts } from "@readme-moe/engine";
import { evaluateSequences } from "@readme-moe/engine/evaluation";
import { endOfTextId, openModel, SafetensorsFile, writeSafetensors, type Model } from "@readme-moe/model";
import { fixedRouter, openRouter } from "@readme-moe/router";
import { tuneLoras, type LoraOptions, type LoraReport } from "@readme-moe/refactor";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { prepareDomain } from "../../packages/refactor/src/job/prepare-domain.ts";
import { resolveLoraOptions } from "../../packages/refactor/src/lora/options.ts";
import {
  planOf,
  scheduleOf,
  sequencesOfKind,
  totalSteps,
  type Course,
} from "../../packages/refactor/src/lora/adapter-trainer.ts";
import type { TextSequence } from "../../packages/refactor/src/tuning/tuning-data.ts";
import * as fc from "../support/fast-check.ts";
import { pocketTexts } from "../support/pocket-texts.ts";
import { expectReadMeError } from "../support/rejection.ts";
import { runningModel } from "../support/running-model.ts";
import { persistentFolder, temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyDense } from "../support/tiny-dense.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "../support/tiny-read-me.ts";
import { TINY_LORA } from "../support/tiny-tuning.ts";

const KINDS = ["book", "github"];
// In float32, whose losses are compared with those of other implementations.
const OPTIONS: LoraOptions = { ...TINY_LORA, tokens: 6144, frozen: "float" };
const folder = await persistentFolder();
const [dense, out] = [join(folder, "dense"), join(folder, "out")];
let model: Model;
let report: LoraReport;

beforeAll(async () => {
  await writeTinyDense(dense, 1);
  model = await openModel(dense);
  report = await tuneLoras(model, await pocketTexts(KINDS), out, { ...OPTIONS, source: "tiny", threads: 1 });
});
afterAll(() => model.close());

describe("the schedule", () => {
  const arbitrary = fc.record({
    tokens: fc.integer({ min: 1, max: 5000 }),
    sharedShare: fc.double({ min: 0, max: 0.99, noNaN: true }),
    batchSequences: fc.integer({ min: 1, max: 5 }),
    numKinds: fc.integer({ min: 1, max: 5 }),
  });

  test("every way to train learns from the same sequences, once each", () => {
    fc.assert(
      fc.property(arbitrary, ({ numKinds, ...given }) => {
        const options = resolveLoraOptions({ ...given, sequenceTokens: 8 }, numKinds);
        const schedule = scheduleOf(options, numKinds);
        const training = textOf(numKinds, sequencesOfKind(schedule, options));
        const drawn = (course: Course): readonly TextSequence[] => {
          const plan = planOf(course, schedule, options);
          return Array.from({ length: plan.steps }, (_, step) => plan.batch(training, step)).flat();
        };
        const ofKinds = (isRest: boolean) => Array.from({ length: numKinds }, (_, kind) => drawn({ kind, isRest }));
        const [first, rest, all, own, ownRest] = [
          drawn("first"),
          drawn("rest"),
          drawn("all"),
          ofKinds(false),
          ofKinds(true),
        ];
        own.forEach((sequences, kind) => expect(sequences.every(({ domain }) => domain === kind)).toBe(true));
        for (const way of [all, [...first, ...rest], [...first, ...ownRest.flat()], own.flat()]) {
          expect(way).toHaveLength(training.length);
          expect(new Set(way)).toEqual(new Set(training));
        }
        expect(all).toHaveLength(totalSteps(schedule) * options.batchSequences);
        const { batch, steps } = planOf("all", schedule, options);
        for (let step = 0; step < steps; step++) {
          expect(new Set(batch(training, step).map(({ domain }) => domain)).size).toBe(1);
        }
      }),
    );
  });

  test("text that is too short is repeated as a whole", () => {
    const options = resolveLoraOptions({ tokens: 640, sharedShare: 0, batchSequences: 2, sequenceTokens: 8 }, 2);
    const schedule = scheduleOf(options, 2);
    const training = textOf(2, 10);
    const plan = planOf({ kind: 1, isRest: false }, schedule, options);
    const drawn = Array.from({ length: plan.steps }, (_, step) => plan.batch(training, step)).flat();
    expect(drawn).toHaveLength(40);
    for (let from = 0; from < 40; from += 10) expect(new Set(drawn.slice(from, from + 10)).size).toBe(10);
  });

  test("rates rise, stay, and fall; a training that goes on has the rates of a whole one", () => {
    const given = { tokens: 102_400, learningRate: 1, warmUpSteps: 4, batchSequences: 4 };
    for (const sharedShare of [0.3, 0.5, 0.76]) {
      const options = resolveLoraOptions({ ...given, sharedShare }, 2);
      const rates = (course: Course): readonly number[] => {
        const plan = planOf(course, scheduleOf(options, 2), options);
        return Array.from({ length: plan.steps }, (_, step) => plan.rates(step).matrices);
      };
      const all = rates("all");
      expect(all).toHaveLength(100);
      expect(all.slice(0, 6)).toEqual([0.25, 0.5, 0.75, 1, 1, 1]);
      expect(all.slice(3, 51).every((rate) => rate === 1)).toBe(true);
      expect(all.slice(51).every((rate, step) => rate < all[50 + step]!)).toBe(true);
      expect(all.at(-1)).toBeLessThan(0.06);
      expect(rates("first")).toHaveLength(100 * sharedShare);
      expect([...rates("first"), ...rates("rest")]).toEqual(all);
      expect(rates({ kind: 0, isRest: false })).toHaveLength(50);
      expect(rates({ kind: 0, isRest: false }).slice(50 * sharedShare)).toEqual(rates({ kind: 0, isRest: true }));
    }
  });
});

test("writes an expert set whose experts are in PEFT's layout", async () => {
  expect((await readdir(out, { recursive: true })).filter((name) => /\.\w+$/.test(name)).toSorted()).toEqual([
    "README.md",
    ...KINDS.flatMap((name) => [`experts/${name}/adapter_config.json`, `experts/${name}/adapter_model.safetensors`]),
    "pictures/losses.svg",
    "read-me-experts.json",
    "report.json",
    "router.safetensors",
  ]);
  const set = JSON.parse(await readFile(join(out, "read-me-experts.json"), "utf8"));
  expect(set.version).toBe(1);
  expect(set.experts).toEqual(KINDS.map((name) => ({ name, folder: `experts/${name}` })));
  expect(set.router).toMatchObject({ embedding_size: 128, inner_size: 128, activation: "silu" });
  expect(set.provenance).toMatchObject({ base: "tiny", options: OPTIONS });
  const router = await SafetensorsFile.open(join(out, "router.safetensors"));
  expect(router.info("proj_out.weight").shape).toEqual([KINDS.length + 1, 128]);
  expect(router.info("embed.weight")).toMatchObject({ type: "I8", shape: [model.config.vocabSize, 128] });
  await router.close();
  const config = JSON.parse(await readFile(join(out, "experts/book/adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ peft_type: "LORA", r: 4, lora_alpha: 8, use_rslora: false, bias: "none" });
  expect(config.target_modules.toSorted()).toEqual(
    ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"].toSorted(),
  );
  const file = await SafetensorsFile.open(join(out, "experts/book/adapter_model.safetensors"));
  expect(file.names).toHaveLength(2 * 7 * 2);
  const shapeOf = (name: string): readonly number[] =>
    file.info(`base_model.model.model.layers.1.${name}.weight`).shape;
  expect(shapeOf("mlp.down_proj.lora_A")).toEqual([4, 64]);
  expect(shapeOf("mlp.down_proj.lora_B")).toEqual([32, 4]);
  expect(shapeOf("self_attn.k_proj.lora_B")).toEqual([16, 4]);
  await file.close();
});

test("losses of the report are those that the kernel has with the changes added to the weights", async () => {
  const { tokenizer } = await model.loadText();
  const endOfText = endOfTextId(tokenizer, model.config.eosTokenIds);
  const shared = { calibrationTokens: 32, routerTokens: 0, evaluationSequences: 4, sequenceTokens: 32, seed: 1 };
  for (const [kind, text] of (await pocketTexts(KINDS)).entries()) {
    const { evaluation } = prepareDomain(text, tokenizer, { ...shared, endOfText });
    const tested = evaluation.filter((_, place) => place % 2 === 0);
    const name = KINDS[kind]!;
    const merged = join(folder, `merged-${name}`);
    await writeMerged(merged, join(out, "experts", name), 8 / 4);
    await using plain = await runningModel(dense);
    await using changed = await runningModel(merged);
    expect(tested).toHaveLength(2);
    expect(report.dense.losses[name]).toBeCloseTo((await evaluateSequences(plain, tested)).loss, 3);
    expect(report.label.losses[name]).toBeCloseTo((await evaluateSequences(changed, tested)).loss, 3);
  }
  expect(report.label.above_dense).toBeLessThan(-0.5);
  expect(report.router.above_dense).toBeLessThan(-0.4);
  expect(report.rival?.above_dense).toBeLessThan(-0.5);
});

test("losses with the router are those of the engine with the expert set", async () => {
  const { tokenizer } = await model.loadText();
  const endOfText = endOfTextId(tokenizer, model.config.eosTokenIds);
  const shared = { calibrationTokens: 32, routerTokens: 0, evaluationSequences: 4, sequenceTokens: 32, seed: 1 };
  const cacheFolder = await temporaryFolder();
  const runner = await KernelRunner.open(model, { threads: 1, precision: "fp32", cacheFolder });
  const set = await openExperts(runner, model, { experts: out });
  expect(set.experts.map(({ name }) => name)).toEqual(KINDS);
  const fingerprint = (): Promise<string> => set.fingerprint(cacheFolder);
  const routed = { path: set.path, router: set.router, experts: model.experts, fingerprint };
  const router = await openRouter(routed, "router", { threads: 1, cacheFolder });
  for (const [kind, text] of (await pocketTexts(KINDS)).entries()) {
    const { evaluation } = prepareDomain(text, tokenizer, { ...shared, endOfText });
    const tested = evaluation.filter((_, place) => place % 2 === 0);
    const name = KINDS[kind]!;
    const own = fixedRouter(KINDS.length + 1, kind + 1);
    // The kernel has factors in half precision, as the file does.
    expect((await evaluateSequences({ runner, router }, tested)).loss).toBeCloseTo(report.router.losses[name]!, 2);
    expect((await evaluateSequences({ runner, router: own }, tested)).loss).toBeCloseTo(report.label.losses[name]!, 2);
  }
  await Promise.all([router.dispose(), runner.dispose(), set.close()]);
});

test("the report counts routes, tokens and evaluations", async () => {
  for (const name of KINDS) {
    const shares = Object.entries(report.routes[name] ?? {});
    expect(shares.map(([expert]) => expert)).toEqual(["none", ...KINDS]);
    expect(shares.reduce((sum, [, share]) => sum + share, 0)).toBeCloseTo(1);
  }
  expect(report.tokens).toBe(48 * 4 * 32);
  expect(report.experts).toEqual(KINDS.map((name) => ({ name, folder: `experts/${name}` })));
  expect(report.trainings.map(({ stage, curve }) => [stage, ...curve.map(({ step }) => step)])).toEqual([
    ["expert", 0, 24, 48],
    ["shared", 0, 12, 24],
    ["rival", 0, 12, 24],
  ]);
  const saved = JSON.parse(await readFile(join(out, "report.json"), "utf8")) as LoraReport;
  expect(saved).toEqual(report);
  const card = await readFile(join(out, "README.md"), "utf8");
  expect(card).toContain("| **mean** |");
  expect(card).toContain("pictures/losses.svg");
});

test("passes over short text three times by default", async () => {
  const texts = (await pocketTexts(KINDS)).map((text) => ({ ...text, documents: text.documents.slice(0, 12) }));
  const shortened = texts.map((text) => ({ ...text, documents: text.documents.map((one) => one.slice(0, 300)) }));
  const { tokens: _, ...options } = OPTIONS;
  const found = await tuneLoras(model, shortened, join(folder, "short"), { ...options, rival: false, threads: 1 });
  const available = found.data.reduce((sum, one) => sum + one.tokens, 0);
  expect(available).toBeLessThan(4000);
  expect(found.options.tokens).toBe(3 * available);
});

test.each(["start", "none"] as const)("trains experts with sharing %s", async (sharing) => {
  const other = join(folder, sharing);
  const found = await tuneLoras(model, await pocketTexts(KINDS), other, { ...OPTIONS, sharing, threads: 1 });
  const stages = found.trainings.map(({ stage, name }) => `${stage} ${name}`);
  const own = KINDS.map((name) => `expert ${name}`);
  const shared = "shared all kinds";
  expect(stages).toEqual([...(sharing === "start" ? [shared, ...own] : [...own, shared]), "rival one for all"]);
  expect(found.label.above_dense).toBeLessThan(-0.5);
  // The expert for comparison does not depend on how the others are trained.
  expect(found.rival).toEqual(report.rival);
  const expert = found.trainings.find(({ stage }) => stage === "expert");
  expect(expert?.curve.at(-1)?.step).toBe(sharing === "start" ? 12 : 24);
});

test.each<readonly [string, LoraOptions, readonly string[], RegExp]>([
  ["a reserved name", {}, ["none"], /name of a kind of text to be other than `none`.*got "none"/],
  ["a name that is no folder's", {}, ["../x"], /got "\.\.\/x"/],
  ["two names that differ in case", {}, ["a", "A"], /different names, got two `A`/],
  ["no text", {}, [], /at least one kind/],
  ["a shared share of 1", { sharedShare: 1 }, ["a"], /`sharedShare` to be below 1, got `1`/],
  ["a constant share of 1", { constantShare: 1 }, ["a"], /`constantShare` to be below 1, got `1`/],
  ["a shared rank that is all", { sharedRank: 16 }, ["a"], /`sharedRank`/],
  ["no rank", { rank: 0 }, ["a"], /`rank`/],
  ["no alpha", { alpha: 0 }, ["a"], /`alpha` to be above 0/],
  ["micro-batches that do not fit", { microSequences: 3 }, ["a"], /`microSequences` to divide the 2/],
  ["shards that do not fit", { shards: 3 }, ["a"], /`shards` to divide the 2/],
  ["micro-batches larger than shards", { shards: 2, microSequences: 2 }, ["a"], /divide the 1 sequences of a shard/],
])("refuses %s", async (_, options, names, message) => {
  const [text] = await pocketTexts(["book"]);
  const texts = names.map((name) => ({ ...text!, name }));
  await expect(tuneLoras(model, texts, join(folder, "refused"), options)).rejects.toThrow(message);
  expect(existsSync(join(folder, "refused.unfinished"))).toBe(false);
});

test("refuses a model of experts", async () => {
  const path = join(folder, "read-me");
  await writeTinyReadMe(path, WITH_TOKENIZER);
  const readMe = await openModel(path);
  const refused = tuneLoras(readMe, await pocketTexts(KINDS), join(folder, "refused"));
  await expectReadMeError(refused, "ERR_MODEL_UNSUPPORTED", "is a mixture of");
  await readMe.close();
});

/** Makes `numSequences` sequences of each kind. */
function textOf(numKinds: number, numSequences: number): readonly TextSequence[] {
  return Array.from({ length: numKinds }, (_, domain) =>
    Array.from({ length: numSequences }, (): TextSequence => ({ tokenIds: new Int32Array(8), domain })),
  ).flat();
}

/** Copies the dense model, with an expert's changes added to its weights. */
async function writeMerged(path: string, expert: string, scale: number): Promise<void> {
  await cp(dense, path, { recursive: true });
  await rm(join(path, "model.safetensors"));
  const [base, changes] = [
    await SafetensorsFile.open(join(dense, "model.safetensors")),
    await SafetensorsFile.open(join(expert, "adapter_model.safetensors")),
  ];
  const tensors = Array.from(base.names, (name) => {
    const { shape } = base.info(name);
    const bytes = async (): Promise<Uint8Array> => {
      const values = (await base.readFloats(name)).slice();
      const key = `base_model.model.${name.replace(/\.weight$/, "")}`;
      if (changes.has(`${key}.lora_A.weight`)) {
        const [a, b] = [
          await changes.readFloats(`${key}.lora_A.weight`),
          await changes.readFloats(`${key}.lora_B.weight`),
        ];
        const [rows = 0, size = 0] = shape;
        const rank = a.length / size;
        for (let row = 0; row < rows; row++) {
          for (let column = 0; column < size; column++) {
            let sum = 0;
            for (let k = 0; k < rank; k++) sum += b[row * rank + k]! * a[k * size + column]!;
            values[row * size + column]! += scale * sum;
          }
        }
      }
      return new Uint8Array(values.buffer);
    };
    return { name, type: "F32" as const, shape, bytes };
  });
  await writeSafetensors(join(path, "model.safetensors"), tensors);
  await Promise.all([base.close(), changes.close()]);
}
