// The calls of `Calls`, answered on the worker's side.

import { ReadMeError, type EngineVocabulary } from "@readme-moe/core";
import type { ModelConfig, Tokenizer } from "@readme-moe/model";
import type { CallName, Calls } from "../protocol.ts";
import { schedulerOf } from "../scheduling-options.ts";
import { keepPrompt } from "./keep-prompt.ts";
import { encoding, promptIds, routedPrompt, type RunningEngine } from "./requests.ts";

type Answers = {
  readonly [Name in CallName]: (
    engine: RunningEngine,
    args: Calls[Name]["args"],
    signal: AbortSignal,
  ) => Calls[Name]["result"] | Promise<Calls[Name]["result"]>;
};

const ANSWERS: Answers = {
  tokenize: (engine, { prompt, ...limits }, signal) => engine.slices.begin(encoding(engine, prompt, limits), signal),
  detokenize: ({ text }, { tokenIds }) => text.tokenizer.decode(tokenIds),
  applyTemplate: ({ text, model }, { messages, template }) => {
    if (text.chatTemplate) return text.chatTemplate.render(messages, template);
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template; give it a plain prompt`);
  },
  vocabulary: ({ text, model }) => engineVocabulary(text.tokenizer, model.config),
  route: async (engine, { prompt, expert }, signal) =>
    routedPrompt(engine, await promptIds(engine, prompt, signal), expert),
  keepPrompt,
  savePrompt: ({ keptPrompts }, { keptId }) => keptPrompts.save(keptId),
  releasePrompt: ({ keptPrompts }, { keptId }) => keptPrompts.release(keptId),
  setScheduling: async ({ core }, options) => {
    core.scheduler = await schedulerOf(options);
  },
  addExpert: (engine, { name, path }) => engine.addExpert(name, path),
  removeExpert: (engine, { name }) => engine.removeExpert(name),
  setExpertCacheBytes: async ({ residency }, { bytes }) => {
    if (!residency.streamed) {
      throw new TypeError("Expected an engine that was opened with `expertCacheBytes`; all its experts are in memory");
    }
    await residency.streamed.setBudget(bytes);
  },
  stats: ({ core }) => ({ ...core.stats(), residentBytes: process.memoryUsage.rss() }),
};

export async function answerCall<Name extends CallName>(
  engine: RunningEngine,
  name: Name,
  args: Calls[Name]["args"],
  signal: AbortSignal,
): Promise<unknown> {
  return ANSWERS[name](engine, args, signal);
}

/** Collects the bytes of a model's tokens, as its tokenizer decodes them. */
export function engineVocabulary(
  tokenizer: Pick<Tokenizer, "tokenBytes" | "isSpecial">,
  { vocabSize, eosTokenIds }: Pick<ModelConfig, "vocabSize" | "eosTokenIds">,
): EngineVocabulary {
  const ends = new Set(eosTokenIds);
  const pieces = Array.from({ length: vocabSize }, (_, id) =>
    tokenizer.isSpecial(id) || ends.has(id) ? new Uint8Array() : tokenizer.tokenBytes(id),
  );
  const offsets = new Uint32Array(vocabSize + 1);
  let numBytes = 0;
  for (const [id, { length }] of pieces.entries()) offsets[id + 1] = numBytes += length;
  const bytes = new Uint8Array(numBytes);
  for (const [id, piece] of pieces.entries()) bytes.set(piece, offsets[id]);
  return { vocabSize, bytes, offsets, eosTokenIds };
}
