// A model with its runner and router, opened for one test or one file of tests.

import type { PreGatingRouter } from "@readme-moe/core";
import { KernelRunner, type StepLogits, type StepRunner } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel, type Model, type Precision } from "@readme-moe/model";
import { openRouter, type ExpertChoice } from "@readme-moe/router";
import { kvFor } from "./greedy.ts";

export interface RunningModel extends AsyncDisposable {
  readonly model: Model;
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
}

/**
 * @param source - a model, which closes with the result, or the path of one
 * @param cacheFolder - a new one for what reads files, since packed weights of the shared one may be of earlier code
 */
export async function runningModel(
  source: string | Model,
  expert?: ExpertChoice,
  precision: Precision = "fp32",
  cacheFolder?: string,
): Promise<RunningModel> {
  const model = typeof source === "string" ? await openModel(source) : source;
  const router = await openRouter(model, expert, { threads: 2 });
  const runner = await KernelRunner.open(model, { threads: 2, precision, cacheFolder });
  return {
    model,
    runner,
    router,
    async [Symbol.asyncDispose]() {
      await runner.dispose();
      await router.dispose();
      await model.close();
    },
  };
}

/** Runs a whole prompt in one step and gives the full logits of `logitsOf` (default: the last position). */
export async function promptLogits(
  { runner, router }: RunningModel,
  tokenIds: readonly number[],
  logitsOf: readonly number[] = [tokenIds.length - 1],
): Promise<StepLogits> {
  const [route] = await router.route([{ state: router.start(), tokenIds }]);
  const experts = route?.experts ?? [];
  const kv = kvFor(runner, tokenIds.length);
  const slot = kv.admit(tokenIds.length) as KvSlot;
  const [result] = await runner.forward(kv, [{ slot, tokenIds, experts, logitsOf, wantsFullLogits: true }]);
  const logits = result as StepLogits;
  return { ...logits, fullLogits: logits.fullLogits.slice() };
}

/** Runs all prompts in one step and returns the logits behind each. */
export async function logitsTogether(
  { runner, router }: RunningModel,
  prompts: readonly (readonly number[])[],
): Promise<readonly Float32Array[]> {
  const kv = runner.openKv({ capacityTokens: 1024 });
  const sequences = [];
  for (const tokenIds of prompts) {
    const [route] = await router.route([{ state: router.start(), tokenIds }]);
    const slot = kv.admit(tokenIds.length) as KvSlot;
    const logitsOf = [tokenIds.length - 1];
    sequences.push({ slot, tokenIds, experts: route?.experts ?? [], logitsOf, wantsFullLogits: true });
  }
  const results: readonly StepLogits[] = await runner.forward(kv, sequences);
  return results.map(({ fullLogits }) => fullLogits.slice());
}

/** The largest difference between two lists of equal length. */
export function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`Expected ${expected.length} numbers, got ${actual.length}`);
  let largest = 0;
  for (let index = 0; index < actual.length; index++) {
    largest = Math.max(largest, Math.abs((actual[index] as number) - (expected[index] as number)));
  }
  return largest;
}
