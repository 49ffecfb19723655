import { join } from "node:path";
import { golden } from "./fixtures.ts";

export const POCKET = join(import.meta.dirname, "..", "..", "models", "pocket");

/** A head that was trained on the model's texts, as its folder says. */
export const POCKET_HEAD = join(import.meta.dirname, "..", "fixtures", "pocket-head");

/** Prompts, and the tokens that PyTorch continues them with. */
export const { cases } = golden("pocket") as {
  readonly cases: readonly { readonly text: string; readonly greedy_32: readonly number[] }[];
};

export const rightAnswers: readonly (readonly number[])[] = cases.map((one) => one.greedy_32);

export const greedy = { temperature: 0, maxTokens: 32, ignoreEos: true } as const;

/** What an engine in a process of its own said, and what its cache folder held at the end. */
export interface Report {
  readonly cacheFailure?: string | undefined;
  readonly ids: readonly (readonly number[])[];
  /** Files and folders, relative to the cache folder. */
  readonly files: readonly string[];
}
