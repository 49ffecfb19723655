// Refactoring and tuning of decoders that differ from Llama in more than biases and windows: what the graphs compute is
// what the kernel computes.

import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { KernelRunner, openExperts } from "@readme-moe/engine";
import { evaluateSequences } from "@readme-moe/engine/evaluation";
import { endOfTextId, openModel, verifyModel } from "@readme-moe/model";
import { refactor, tune, tuneLoras, type DomainText, type TuneOptions } from "@readme-moe/refactor";
import { fixedRouter } from "@readme-moe/router";
import { describe, expect, test } from "vitest";
import { CHARACTER_OF_BYTE } from "../../packages/model/src/text/pre-tokenizer.ts";
import { prepareDomain } from "../../packages/refactor/src/job/prepare-domain.ts";
import { fixture, fixtureNames } from "../support/fixtures.ts";
import { LITTLE, pocketTexts } from "../support/pocket-texts.ts";
import { largestDifference, promptLogits, runningModel } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { TINY_LORA } from "../support/tiny-tuning.ts";
import { bpeModel, byteLevelDefinition } from "../support/tokenizer-definitions.ts";

/** Numbers of tokens, which are those of characters here. */
const TOKENS = { calibrationTokens: 256, routerTokens: 256, evaluationSequences: 1, sequenceTokens: 64 } as const;

/** One step. */
const ONE_STEP: TuneOptions = {
  tokens: 64,
  method: "full",
  attention: true,
  learningRate: 0.01,
  sequenceTokens: 32,
  batchSequences: 2,
  microSequences: 2,
  evaluationSequences: 1,
  evaluations: 1,
};

const texts = (await pocketTexts(["book", "github"])).map((text): DomainText => ({
  ...text,
  documents: text.documents.map((document) => document.replace(/[^\n -~]/g, "")),
}));

/** Copies a fixture with a tokenizer of the 128 ASCII characters, which is its vocabulary's size. */
async function withTokenizer(name: string): Promise<string> {
  const path = join(await temporaryFolder(), "model");
  await cp(fixture(name), path, { recursive: true });
  const model = bpeModel(CHARACTER_OF_BYTE.slice(0, 128), []);
  await writeFile(join(path, "tokenizer.json"), JSON.stringify(byteLevelDefinition([], { model })));
  return path;
}

/** Mean loss of each domain's held-out text when the kernel runs the model. */
async function servedLosses(path: string): Promise<readonly number[]> {
  await using running = await runningModel(path);
  const { tokenizer } = await running.model.loadText();
  const endOfText = endOfTextId(tokenizer, running.model.config.eosTokenIds);
  const shared = { ...TOKENS, seed: 1 };
  const losses: number[] = [];
  for (const text of texts) {
    const { evaluation } = prepareDomain(text, tokenizer, { ...shared, endOfText });
    losses.push((await evaluateSequences(running, evaluation)).loss);
  }
  return losses;
}

/** Families whose graphs other tests compare already, and where. */
const COVERED: Readonly<Record<string, string>> = {
  "families/llama-tied": "the pocket model is a Llama with tied embeddings",
  "families/llama-attention-bias": "biases are a variant of tuning-gradients.test.ts",
  "families/llama3-rope-scaling": "only the angles differ, which graphs and the kernel take from `ropeTables`",
  "families/mistral-sliding-window": "a window is a variant of tuning-gradients.test.ts",
  "families/qwen2": "biases are a variant of tuning-gradients.test.ts",
  "families/qwen3": "norms of heads are a variant of tuning-gradients.test.ts",
  "families/gemma2": "is refused: graphs have no bounds of scores",
};

const FAMILIES = fixtureNames("families").filter((name) => COVERED[name] === undefined);

describe.each(FAMILIES)("%s", (name) => {
  test("with all neurons in every expert is the dense model", async () => {
    const [path, folder] = [await withTokenizer(name), await temporaryFolder()];
    const dense = await openModel(path);
    const out = join(folder, "whole");
    await refactor(dense, texts, out, { ...LITTLE, ...TOKENS, baselines: false, expertSize: 1, threads: 1 });
    await dense.close();
    await using expected = await runningModel(path);
    await using actual = await runningModel(out);
    const ids = Array.from({ length: 30 }, (_, i) => 32 + ((i * 37) % 90));
    const [wanted, found] = [await promptLogits(expected, ids), await promptLogits(actual, ids)];
    const size = Math.max(...wanted.fullLogits.map(Math.abs));
    expect(largestDifference(found.fullLogits, wanted.fullLogits)).toBeLessThan(0.01 * size);
  });

  test("is refactored and tuned, with the losses that it has when it is served", async () => {
    const [path, folder] = [await withTokenizer(name), await temporaryFolder()];
    const dense = await openModel(path);
    const out = join(folder, "refactored");
    const report = await refactor(dense, texts, out, {
      ...LITTLE,
      ...TOKENS,
      expertSize: 0.75,
      threads: 1,
      source: name,
    });
    const lossesOf = (id: string): readonly number[] =>
      texts.map((text) => report.losses.find((row) => row.id === id)?.losses[text.name] ?? NaN);
    const served = await servedLosses(out);
    const denseLosses = await servedLosses(path);
    for (const [index, loss] of lossesOf("ours").entries()) expect(served[index]).toBeCloseTo(loss, 3);
    for (const [index, loss] of lossesOf("dense").entries()) expect(denseLosses[index]).toBeCloseTo(loss, 3);

    const student = await openModel(out);
    await verifyModel(student);
    const tuned = join(folder, "tuned");
    const tuning = await tune({ student, teacher: dense }, texts, tuned, { ...ONE_STEP, threads: 1 });
    expect(tuning.curve.at(-1)?.losses).toBeDefined();
    await Promise.all([student.close(), dense.close()]);
    const model = await openModel(tuned);
    await verifyModel(model);
    await model.close();
    expect((await servedLosses(tuned)).every(Number.isFinite)).toBe(true);
  });

  test("learns experts of low rank, with the losses that it has when it is served", async () => {
    const [path, folder] = [await withTokenizer(name), await temporaryFolder()];
    const model = await openModel(path);
    const out = join(folder, "experts");
    const report = await tuneLoras(model, texts, out, { ...TINY_LORA, frozen: "float", source: name, threads: 1 });
    const { tokenizer } = await model.loadText();
    const endOfText = endOfTextId(tokenizer, model.config.eosTokenIds);
    const shared = { calibrationTokens: 32, routerTokens: 0, evaluationSequences: 4, sequenceTokens: 32, seed: 1 };
    const runner = await KernelRunner.open(model, { threads: 1, precision: "fp32", cacheFolder: folder });
    const set = await openExperts(runner, model, { experts: out });
    for (const [kind, text] of texts.entries()) {
      const { evaluation } = prepareDomain(text, tokenizer, { ...shared, endOfText });
      const tested = evaluation.filter((_, place) => place % 2 === 0);
      const lossWith = async (expert: number): Promise<number> =>
        (await evaluateSequences({ runner, router: fixedRouter(texts.length + 1, expert) }, tested)).loss;
      expect(await lossWith(0)).toBeCloseTo(report.dense.losses[text.name]!, 3);
      // The kernel has factors in half precision, as the file does.
      expect(await lossWith(kind + 1)).toBeCloseTo(report.label.losses[text.name]!, 2);
    }
    expect(report.label.above_dense).toBeLessThan(-0.03);
    await Promise.all([runner.dispose(), set.close(), model.close()]);
  });
});
