// Hidden states of tiny random encoders of all families, held against those that PyTorch computes.

import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { KvSlot } from "@readme-moe/kernel";
import { expect, test } from "vitest";
import { Classifier } from "../../../packages/engine/src/classifier.ts";
import { fixture, golden } from "../../support/fixtures.ts";
import { kvFor } from "../../support/greedy.ts";
import { cosine } from "../../support/pooling-models.ts";
import { largestDifference, runningModel, type RunningModel } from "../../support/running-model.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";

interface StatesCase {
  readonly input_ids: readonly number[];
  readonly first: readonly number[];
  readonly mean: readonly number[];
  readonly last: readonly number[];
}

/** Runs texts in one step. @returns one state of each token, or their mean, of each text */
async function statesOf(
  { runner }: RunningModel,
  texts: readonly (readonly number[])[],
  isAveraged: boolean,
): Promise<readonly Float32Array[]> {
  const kv = kvFor(runner, 64 * texts.length + texts.reduce((sum, { length }) => sum + length, 0));
  const sequences = texts.map((tokenIds) => ({
    slot: kv.admit(tokenIds.length) as KvSlot,
    tokenIds,
    experts: tokenIds.map(() => 0),
    logitsOf: Array.from(tokenIds.keys()),
    wantsFullLogits: true,
    isAveraged,
  }));
  const results = await runner.forward(kv, sequences);
  const states = results.map(({ fullLogits }) => fullLogits.slice());
  kv.dispose();
  return states;
}

const FAMILIES = [
  "bert",
  "roberta",
  "xlm-roberta",
  "mpnet",
  "distilbert",
  "nomic-bert",
  "modernbert",
  "embeddinggemma",
];

test.for(FAMILIES)("states of %s are those of PyTorch, alone and among others", async (family) => {
  await using running = await runningModel(fixture(`encoders/${family}`));
  const { cases } = golden(`encoders/${family}`) as { readonly cases: readonly StatesCase[] };
  const size = running.model.config.hiddenSize;
  const texts = cases.map(({ input_ids }) => input_ids);
  const means = await statesOf(running, texts, true);
  const together = await statesOf(running, texts, false);
  for (const [index, { input_ids, first, mean, last }] of cases.entries()) {
    const [alone] = await statesOf(running, [input_ids], false);
    expect(alone).toEqual(together[index]);
    expect(largestDifference(alone!.subarray(0, size), first), "first").toBeLessThan(1e-4);
    expect(largestDifference(alone!.subarray(-size), last), "last").toBeLessThan(1e-4);
    expect(largestDifference(means[index]!, mean), "mean").toBeLessThan(1e-4);
  }
});

test.for(["bert", "roberta", "mpnet", "distilbert", "modernbert"])(
  "ONNX files of %s have the same states",
  async (family) => {
    const folder = await writeOnnx(family, family);
    await using running = await runningModel(folder);
    await using checkpoint = await runningModel(fixture(`encoders/${family}`));
    const texts = (golden(`encoders/${family}`) as { readonly cases: readonly StatesCase[] }).cases.map(
      (one) => one.input_ids,
    );
    expect(await statesOf(running, texts, false)).toEqual(await statesOf(checkpoint, texts, false));
  },
);

test("a quantised ONNX file has nearly the same states", async () => {
  await using running = await runningModel(await writeOnnx("bert", "bert_quantized"), undefined, "int8");
  const { cases } = golden("encoders/bert") as { readonly cases: readonly StatesCase[] };
  const means = await statesOf(
    running,
    cases.map(({ input_ids }) => input_ids),
    true,
  );
  for (const [index, { mean }] of cases.entries()) expect(cosine(means[index]!, mean)).toBeGreaterThan(0.99);
});

/** Writes a folder as repositories for transformers.js are: config.json, and a file in `onnx`. */
async function writeOnnx(family: string, file: string): Promise<string> {
  const folder = join(await persistentFolder(), family);
  await mkdir(join(folder, "onnx"), { recursive: true });
  await copyFile(fixture(`encoders/${family}/config.json`), join(folder, "config.json"));
  await copyFile(fixture(`encoders-onnx/${file}.onnx`), join(folder, "onnx", "model.onnx"));
  return folder;
}

interface ScoreCase {
  readonly input_ids: readonly number[];
  readonly scores: readonly number[];
}

test.for(["bert-rank", "xlm-roberta-rank"])("logits of %s are those of PyTorch", async (name) => {
  await using running = await runningModel(fixture(`encoders/${name}`));
  const { cases } = golden(`encoders/${name}`) as { readonly cases: readonly ScoreCase[] };
  const { weights, config } = running.model;
  const classifier = await Classifier.open(weights.encoder!.classifier, config.rmsNormEpsilon);
  for (const { input_ids, scores } of cases) {
    const [states] = await statesOf(running, [input_ids], false);
    const logits = classifier.logitsOf(states!.subarray(0, config.hiddenSize));
    expect(largestDifference(logits, scores)).toBeLessThan(1e-4);
  }
});
