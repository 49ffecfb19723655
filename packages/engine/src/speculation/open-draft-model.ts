// Opens a draft model for another model, if both have the same tokens.

import { describeValue } from "@readme-moe/core";
import { forContext, isPublished, type Model, openModel, type Tokenizer } from "@readme-moe/model";
import { type DraftModelOptions, ModelDrafter } from "./model-drafter.ts";

/** Parts of the model that verifies drafts. */
export type DraftTarget = Pick<Model, "path" | "config" | "loadText">;

/**
 * Opens a dense model that drafts for another one.
 *
 * @param path - a folder or a GGUF file
 * @throws {TypeError | RangeError} naming the option `draft`, when the model does not fit the other one
 * @throws {ReadMeError} when the model cannot be opened
 */
export async function openDraftModel(
  path: string,
  options: DraftModelOptions,
  target: DraftTarget,
): Promise<ModelDrafter> {
  if (typeof path !== "string" || path === "") {
    throw new TypeError(`Expected \`draft\` to name a folder or a GGUF file, got ${describeValue(path)}`);
  }
  // The model is opened again for its weights, so that its tokenizer does not stay in memory.
  const checked = await openModel(path);
  try {
    const problem = await misfit(checked, target);
    if (problem !== undefined) throw new RangeError(`Expected \`draft\` to be ${problem}; got \`${path}\``);
  } finally {
    await checked.close();
  }
  const draft = await openModel(path);
  const contextTokens = Math.min(options.contextTokens ?? Infinity, draft.config.contextTokens);
  return ModelDrafter.open(forContext(draft, contextTokens), { vocabSize: target.config.vocabSize, ...options });
}

/** Options of an engine that concern its draft model. */
export interface DraftingOptions extends DraftModelOptions {
  /** Folder or GGUF file of the draft model. @default none */
  readonly draft?: string | undefined;
}

/** Opens the draft model that an engine's options name, if they name one. */
export async function openDraftOf(
  target: DraftTarget,
  { draft, ...options }: DraftingOptions,
  hooks: Pick<DraftModelOptions, "onProgress" | "onCacheFailure">,
): Promise<ModelDrafter | undefined> {
  if (draft === undefined) return undefined;
  const { precision, threads, kernel, cacheFolder, kvPrecision, maxNumSeqs, chunkTokens, contextTokens } = options;
  const own = { precision, threads, kernel, cacheFolder, kvPrecision, maxNumSeqs, chunkTokens, contextTokens };
  return openDraftModel(draft, { ...own, ...hooks }, target);
}

/** Finds the first reason why a model cannot draft for another one. */
async function misfit(model: Model, target: DraftTarget): Promise<string | undefined> {
  const numExperts = Math.max(model.experts.names.length, 1 + (model.lowRank?.experts.length ?? 0));
  if (model.config.pooling) return "a model that generates";
  if (numExperts > 1 || !isPublished(model)) return `a dense model, not one of ${numExperts} experts`;
  const [own, other] = [(await model.loadText()).tokenizer, (await target.loadText()).tokenizer];
  const id = firstDifference(own, other);
  if (id === undefined) return undefined;
  const [ownToken, otherToken] = [own, other].map((tokenizer) => describeToken(tokenizer, id));
  return `a model with the tokens of \`${target.path}\`, whose token ${id} is ${otherToken}, not ${ownToken}`;
}

/** GGUF files fill ids without a token with such names. */
const PADDING = /^\[PAD\d+\]$/;

function spellingOf(tokenizer: Tokenizer, id: number): string | undefined {
  const spelling = tokenizer.spelling(id);
  return spelling !== undefined && PADDING.test(spelling) ? undefined : spelling;
}

/** Finds the first id that two vocabularies spell differently. Logits without a token do not count. */
function firstDifference(one: Tokenizer, other: Tokenizer): number | undefined {
  for (let id = 0; id < Math.max(one.vocabSize, other.vocabSize); id++) {
    if (spellingOf(one, id) !== spellingOf(other, id)) return id;
  }
  return undefined;
}

function describeToken(tokenizer: Tokenizer, id: number): string {
  const spelling = spellingOf(tokenizer, id);
  return spelling === undefined ? "none" : JSON.stringify(spelling);
}
