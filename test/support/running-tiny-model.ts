// Tiny models that read text, opened for steps.

import { join } from "node:path";
import type { Tokenizer } from "@readme-moe/model";
import { TINY_MIXTURE, writeRandomMixture } from "./random-mixture.ts";
import { readableFixture } from "./readable-fixture.ts";
import { type RunningModel, runningModel } from "./running-model.ts";
import { persistentFolder } from "./temporary-folder.ts";
import { WITH_TOKENIZER, writeTinyReadMe } from "./tiny-read-me.ts";

/** A tiny model of experts that reads text, in a folder of its own, for all tests of a file. */
export async function runningTinyModel(): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  return runningReader((path) => writeTinyReadMe(path, { ...WITH_TOKENIZER }));
}

/** The same with a tiny mixture whose layers choose experts. */
export async function runningTinyMixture(): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const { vocabSize } = WITH_TOKENIZER;
  return runningReader((path) => writeRandomMixture(path, { ...TINY_MIXTURE, vocabSize }, { hasTokenizer: true }));
}

/** The same with a fixture. */
export async function runningFixture(name: string): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  return runningPath(await readableFixture(name, await persistentFolder()));
}

async function runningReader(
  write: (path: string) => Promise<void>,
): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const path = join(await persistentFolder(), "model");
  await write(path);
  return runningPath(path);
}

async function runningPath(path: string): Promise<RunningModel & { readonly tokenizer: Tokenizer }> {
  const running = await runningModel(path);
  return { ...running, tokenizer: (await running.model.loadText()).tokenizer };
}
