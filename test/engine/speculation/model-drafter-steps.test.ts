// Steps of an engine's core with a draft model: the same tokens in fewer steps, and no memory left behind.

import { join } from "node:path";
import type { SamplingParams } from "@readme-moe/core";
import { KernelRunner } from "@readme-moe/engine";
import { kvBytesPerToken } from "@readme-moe/kernel";
import { type Model, openModel, type Tokenizer } from "@readme-moe/model";
import { fixedRouter } from "@readme-moe/router";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type DraftModelOptions, ModelDrafter } from "../../../packages/engine/src/speculation/model-drafter.ts";
import { EngineDrafter } from "../../../packages/engine/src/speculation/speculation.ts";
import { CoreBench } from "../../support/core-bench.ts";
import { writeFirstLayers } from "../../support/first-layers.ts";
import { cases, POCKET } from "../../support/pocket.ts";
import { persistentFolder } from "../../support/temporary-folder.ts";

let folder: string;
let model: Model;
let runner: KernelRunner;
let tokenizer: Tokenizer;
beforeAll(async () => {
  folder = await persistentFolder();
  model = await openModel(POCKET);
  ({ tokenizer } = await model.loadText());
  runner = await KernelRunner.open(model, { precision: "int8", threads: 2 });
  await writeFirstLayers(POCKET, join(folder, "two-layers"), 2);
});
afterAll(async () => {
  await runner.dispose();
  await model.close();
});

/** Answers all prompts of the fixture, with the drafts of a model or without any. */
async function answersOf(temperatures: readonly number[], path?: string, options: DraftModelOptions = {}) {
  // Runs of this draft model seem to take nearly no time, so that every likely draft pays.
  let time = 0;
  const now = (): number => (time += 1e-4);
  const all = { precision: "int8", threads: 2, now, cacheFolder: join(folder, "cache"), ...options } as const;
  const drafter = path === undefined ? undefined : await ModelDrafter.open(await openModel(path), all);
  const drafting = drafter && { drafter: new EngineDrafter(drafter) };
  const bench = new CoreBench({ runner, router: fixedRouter(1, 0) }, tokenizer, {
    capacityTokens: 4096,
    maxNumSeqs: 2,
    ...drafting,
  });
  for (const [index, { text }] of cases.entries()) {
    for (const temperature of temperatures) {
      const params: SamplingParams = {
        maxTokens: 40,
        temperature,
        seed: index,
        logprobs: 2,
        ignoreEos: index % 2 === 0,
      };
      bench.add(`${index} at ${temperature}`, Array.from(tokenizer.encode(text)), params);
    }
  }
  await bench.finish();
  const bytes = drafter?.bytes ?? 0;
  await drafter?.dispose();
  const { steps, draftsBySource } = bench.core.stats();
  return { outcomes: bench.outcomes, steps, bytes, ofModel: draftsBySource?.model };
}

test("a draft model changes no token, whatever it is worth and however little memory it has", async () => {
  const temperatures = [0, 0.8];
  const without = await answersOf(temperatures);
  expect(without.ofModel).toBeUndefined();
  const kvBytes = 64 * kvBytesPerToken(model.config, "fp16");
  const all = [
    await answersOf(temperatures, POCKET),
    await answersOf(temperatures, join(folder, "two-layers")),
    await answersOf(temperatures, POCKET, { kvBytes }),
  ];
  for (const { outcomes, bytes, ofModel } of all) {
    expect(outcomes).toEqual(without.outcomes);
    expect(bytes).toBe(0);
    const { draftedTokens = 0, acceptedDraftTokens = 0 } = ofModel ?? {};
    // Drawn answers differ from the most likely ones.
    expect(draftedTokens).toBeGreaterThan(acceptedDraftTokens);
    expect(acceptedDraftTokens).toBeGreaterThan(0);
  }
});

test("greedy answers accept every token that the same model drafted, and take fewer steps", async () => {
  const without = await answersOf([0]);
  const { steps, ofModel } = await answersOf([0], POCKET);
  expect(ofModel?.draftedTokens).toBeGreaterThan(20);
  expect(ofModel?.acceptedDraftTokens).toBe(ofModel?.draftedTokens);
  expect(steps).toBeLessThan(without.steps);
});
