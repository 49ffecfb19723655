// A model with its runner and router, opened for one test or one file of tests.

import { join } from "node:path";
import type { PreGatingRouter } from "@readme-moe/core";
import { KernelRunner, type StepLogits, type StepRunner } from "@readme-moe/engine";
import type { KvSlot } from "@readme-moe/kernel";
import { openModel, type Model, type Precision, type Tokenizer } from "@readme-moe/model";
import { openRouter, type ExpertChoice } from "@readme-moe/router";
import { kvFor } from "./greedy.ts";
import { TINY_MIXTURE, writeRandomMixture } from "./random-mixture.ts";
import { persistentFolder } from "./temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "./tiny-read-me.ts";

export interface RunningModel extends AsyncDisposable {
  readonly model: Model;
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
}

/** @param cacheFolder - a new one for what reads files, since packed weights of the shared one may be of earlier code */
export async function runningModel(
  path: string,
  expert?: ExpertChoice,
  precision: Precision = "fp32",
  cacheFolder?: string,
): Promise<RunningModel> {
  const model = await openModel(path);
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

/** A tiny model of experts that reads text, in a folder of its own, for all tests of a file. */
export async function runningTinyModel(): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  return runningReader((path) => writeTinyReadMe(path, { ...WITH_TOKENIZER }));
}

/** The same with a tiny mixture whose layers choose experts. */
export async function runningTinyMixture(): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const { vocabSize } = WITH_TOKENIZER;
  return runningReader((path) => writeRandomMixture(path, { ...TINY_MIXTURE, vocabSize }, { hasTokenizer: true }));
}

async function runningReader(
  write: (path: string) => Promise<void>,
): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const path = join(await persistentFolder(), "model");
  await write(path);
  const running = await runningModel(path);
  return { ...running, tokenizer: (await running.model.loadText()).tokenizer };
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

/** The largest difference between two lists of equal length. */
export function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`Expected ${expected.length} numbers, got ${actual.length}`);
  let largest = 0;
  for (let index = 0; index < actual.length; index++) {
    largest = Math.max(largest, Math.abs((actual[index] as number) - (expected[index] as number)));
  }
  return largest;
}
