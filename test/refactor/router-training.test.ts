import { openModel, writeReadMeFolder } from "@readme-moe/model";
import { KernelRouter } from "@readme-moe/router";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { RouterExample } from "../../packages/refactor/src/router-training/routes.ts";
import { RouterTrainer } from "../../packages/refactor/src/router-training/router-trainer.ts";
import {
  trainRouter,
  type RouterTrainingOptions,
  type TrainedRouter,
} from "../../packages/refactor/src/router-training/train-router.ts";
import { randomInteger, randomNormal, seededRandom } from "../support/random.ts";
import { largestDifference } from "../support/running-model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyContent } from "../support/tiny-read-me.ts";

const VOCABULARY = 48;
const EXPERTS = 4;
const SMALL = { embeddingSize: 32, innerSize: 32, numHeads: 2, numLayers: 1, normalizer: 4, ropeTheta: 100 };

/** Makes texts in which the last two tokens determine the expert that costs nothing; the others cost 1. */
function ruleExamples(count: number, seed: number): readonly RouterExample[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => {
    const tokenIds = Int32Array.from({ length: 40 }, () => randomInteger(random, VOCABULARY));
    const costs = new Float32Array(tokenIds.length * EXPERTS).fill(1);
    tokenIds.forEach((id, at) => {
      costs[at * EXPERTS + ((id + 2 * (at > 0 ? tokenIds[at - 1]! : 0)) % EXPERTS)] = 0;
    });
    return { tokenIds, costs };
  });
}

function settings(options: Partial<RouterTrainingOptions> = {}): RouterTrainingOptions {
  const random = seededRandom(9);
  return {
    numExperts: EXPERTS,
    vocabSize: VOCABULARY,
    contextTokens: 256,
    embedding: { values: Float32Array.from({ length: VOCABULARY * 24 }, () => randomNormal(random)), size: 24 },
    architecture: SMALL,
    localityTokens: 1,
    steps: 20,
    batchCrops: 8,
    cropTokens: 32,
    replacedShare: 0,
    validation: [],
    seed: 5,
    threads: 1,
    signal: undefined,
    ...options,
  };
}

/** Opens the training's network with the tensors that it exported. */
async function reopened({ config, tensors }: TrainedRouter): Promise<RouterTrainer> {
  const parameters = new Map<string, Float32Array>();
  for (const { name, bytes } of tensors) parameters.set(name, new Float32Array((await bytes()).slice().buffer));
  return new RouterTrainer(config, parameters, { sequences: 1, tokens: 8 }, 1);
}

async function bytesOf(router: TrainedRouter): Promise<readonly Uint8Array[]> {
  return Promise.all(router.tensors.map(({ bytes }) => bytes()));
}

describe("training", () => {
  test("learns a rule of the last two tokens, and applies it to unseen texts", async () => {
    const options = settings({ steps: 500, learningRate: 0.01, weightDecay: 0, validation: ruleExamples(20, 2) });
    const { validation, history } = await trainRouter(ruleExamples(400, 1), options);
    expect(validation?.accuracy).toBeGreaterThan(0.9);
    expect(validation?.regret).toBeLessThan(0.1);
    expect(history.losses.at(-1)).toBeLessThan((history.losses[0] as number) / 2);
  });

  test("returns the parameters with the best validation, not the last ones", async () => {
    // The learning rate is so high that the last parameters are worse than earlier ones.
    const options = settings({ steps: 60, learningRate: 0.3, validation: ruleExamples(8, 2), validateEverySteps: 5 });
    const { history, validation } = await trainRouter(ruleExamples(20, 1), options);
    const costs = history.validations.map(({ figures }) => figures.cost);
    expect(validation?.cost).toBe(Math.min(...costs));
    expect(history.validations.find(({ step }) => step === history.bestStep)?.figures).toEqual(validation);
  });

  test("gives the same router for the same seed, and a different one for another seed", async () => {
    const examples = ruleExamples(30, 1);
    const options = settings({ replacedShare: 0.1 });
    const [first, second] = [await trainRouter(examples, options), await trainRouter(examples, options)];
    expect(await bytesOf(second)).toEqual(await bytesOf(first));
    expect(second.history).toEqual(first.history);
    const other = await trainRouter(examples, { ...options, seed: 6 });
    expect(other.history.losses).not.toEqual(first.history.losses);
  });

  test("resumes from a checkpoint with the same result", async () => {
    const examples = ruleExamples(30, 1);
    const options = settings({
      validation: ruleExamples(5, 2),
      validateEverySteps: 4,
      checkpointEverySteps: 9,
      replacedShare: 0.1,
    });
    const whole = await trainRouter(examples, options);
    const checkpointPath = join(await temporaryFolder(), "router.safetensors");
    const killed = new AbortController();
    const kill = ({ step }: { readonly step: number }): void => {
      if (step === 12) killed.abort(new Error("killed"));
    };
    const interrupted = trainRouter(examples, { ...options, checkpointPath, onProgress: kill, signal: killed.signal });
    await expect(interrupted).rejects.toThrow("killed");
    const steps: number[] = [];
    const rest = await trainRouter(examples, {
      ...options,
      checkpointPath,
      onProgress: ({ step }) => steps.push(step),
    });
    expect(steps[0]).toBe(10);
    expect(rest.history).toEqual(whole.history);
    expect(await bytesOf(rest)).toEqual(await bytesOf(whole));
  });

  test("rejects a checkpoint of another router", async () => {
    const checkpointPath = join(await temporaryFolder(), "router.safetensors");
    const options = settings({ steps: 1, checkpointEverySteps: 1, checkpointPath });
    await trainRouter(ruleExamples(3, 1), options);
    expect(existsSync(checkpointPath)).toBe(true);
    const other = { ...options, architecture: { ...SMALL, numLayers: 2 } };
    await expect(trainRouter(ruleExamples(3, 1), other)).rejects.toThrow(/to hold 32 values of .*_1/);
  });

  test("stops between two steps when a signal or a timer aborts it", async () => {
    let steps = 0;
    const signal = AbortSignal.timeout(50);
    const endless = trainRouter(ruleExamples(3, 1), settings({ steps: 1e6, signal, onProgress: () => void steps++ }));
    await expect(endless).rejects.toThrow(/timeout/);
    expect(steps).toBeLessThan(1e6);
    await expect(trainRouter(ruleExamples(3, 1), settings({ signal }))).rejects.toThrow(/timeout/);
  });
});

test.each([
  ["one layer", SMALL],
  ["two layers, inner size of its own", { ...SMALL, numLayers: 2, innerSize: 24, numHeads: 3, normalizer: 1 }],
])("the served router has the logits of the trained one: %s", async (_, architecture) => {
  const examples = ruleExamples(30, 1);
  const options = settings({ architecture, validation: ruleExamples(3, 2) });
  const trained = await trainRouter(examples, options);
  const { config } = trained;
  const content = tinyContent({ numExperts: EXPERTS, vocabSize: VOCABULARY });
  const folder = join(await temporaryFolder(), "model");
  await writeReadMeFolder(folder, {
    ...content,
    readme: {
      ...content.readme,
      router: {
        embedding_size: config.embeddingSize,
        inner_size: config.innerSize,
        num_heads: config.numHeads,
        num_layers: config.numLayers,
        normalizer: config.normalizer,
        rope_theta: config.ropeTheta,
        context_tokens: config.contextTokens,
        activation: "silu",
      },
    },
    tensors: { ...content.tensors, router: trained.tensors },
  });
  const model = await openModel(folder);
  expect(model.router?.config).toEqual(config);
  const router = await KernelRouter.open(model, { threads: 1 });
  const trainer = await reopened(trained);
  for (const { tokenIds } of ruleExamples(3, 3)) {
    const [route] = await router.route([{ state: router.start(), tokenIds: [...tokenIds] }]);
    const logits = await trainer.logits(tokenIds);
    expect(Math.max(...logits) - Math.min(...logits)).toBeGreaterThan(1);
    expect(largestDifference([...logits], [...(route?.logits ?? [])])).toBeLessThan(1e-4);
  }
  await trainer.dispose();
  await router.dispose();
  await model.close();
});

test("an embedding with too few dimensions for evidence starts without it", async () => {
  const options = settings({ architecture: { ...SMALL, embeddingSize: 6 }, validation: ruleExamples(3, 2) });
  const { validation } = await trainRouter(ruleExamples(10, 1), options);
  expect(validation?.tokens).toBe(120);
});

test.each([
  [{ numExperts: 3 }, /to have 40 x 3 values, got 160/],
  [{ validation: [{ tokenIds: Int32Array.of(1), costs: Float32Array.of(1, NaN, 1, 1) }] }, /to be finite, got NaN/],
])("rejects costs that do not fit their tokens or are not finite: %o", async (wrong, message) => {
  await expect(trainRouter(ruleExamples(2, 1), settings(wrong))).rejects.toThrow(message);
});
