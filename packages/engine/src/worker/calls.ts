// The calls of `Calls`, answered on the worker's side.

import { ReadMeError, type EngineVocabulary } from "@readme-moe/core";
import type { ModelConfig, Tokenizer } from "@readme-moe/model";
import type { CallName, Calls } from "../protocol.ts";
import { schedulerOf } from "../scheduling-options.ts";
import { keepPrompt } from "./keep-prompt.ts";
import {
  encoding,
  promptIds,
  routedPrompt,
  type ReadingEngine,
  type RunningEngine,
  type RunningRequests,
} from "./requests.ts";

type Answers<Engine, Name extends CallName> = {
  readonly [Each in Name]: (
    engine: Engine,
    args: Calls[Each]["args"],
    signal: AbortSignal,
  ) => Calls[Each]["result"] | Promise<Calls[Each]["result"]>;
};

/** Calls about prompts, which need no weights. */
export type ReadingCall = "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route";

const READING_ANSWERS: Answers<ReadingEngine, ReadingCall> = {
  tokenize: (engine, { prompt, ...limits }, signal) => engine.slices.begin(encoding(engine, prompt, limits), signal),
  detokenize: ({ text }, { tokenIds }) => text.tokenizer.decode(tokenIds),
  applyTemplate: ({ text, model }, { messages, template }) => {
    if (text.chatTemplate) return text.chatTemplate.render(messages, template);
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template; give it a plain prompt`);
  },
  vocabulary: ({ text, model }) => engineVocabulary(text.tokenizer, model.config),
  route: async (engine, { prompt, expert }, signal) => {
    const isWhole = engine.model.config.pooling !== undefined;
    return routedPrompt(engine, await promptIds(engine, prompt, signal, isWhole), expert);
  },
};

/** An engine with its requests. */
interface ServingEngine extends RunningEngine {
  readonly requests: RunningRequests;
}

const ANSWERS: Answers<ServingEngine, CallName> = {
  ...READING_ANSWERS,
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
  drain: ({ requests }) => requests.drain(),
  stats: ({ core }) => ({ ...core.stats(), residentBytes: process.memoryUsage.rss() }),
};

export async function answerCall<Name extends CallName>(
  engine: ServingEngine,
  name: Name,
  args: Calls[Name]["args"],
  signal: AbortSignal,
): Promise<unknown> {
  return ANSWERS[name](engine, args, signal);
}

/** Tells whether a call is about prompts alone. */
export function isReadingCall(name: CallName): name is ReadingCall {
  return name in READING_ANSWERS;
}

/** Answers a call about prompts. */
export async function answerReading<Name extends ReadingCall>(
  reader: ReadingEngine,
  name: Name,
  args: Calls[Name]["args"],
  signal: AbortSignal,
): Promise<unknown> {
  return READING_ANSWERS[name](reader, args, signal);
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
