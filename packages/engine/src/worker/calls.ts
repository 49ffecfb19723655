// The questions of `Calls`, answered on the worker's side.

import type { Calls, CallName, WirePrompt } from "../protocol.ts";
import { encodeChat, type EncodeOptions } from "@readme-moe/model";
import { ReadMeError } from "@readme-moe/core";
import { engineVocabulary } from "./engine-vocabulary.ts";
import { schedulerOf } from "../scheduling-options.ts";
import type { OpenedEngine } from "./open-parts.ts";

interface Limits extends Pick<EncodeOptions, "maxTokens" | "tooMany"> {
  readonly addSpecialTokens?: boolean | undefined;
}

type Answers = {
  readonly [Name in CallName]: (
    opened: OpenedEngine,
    args: Calls[Name]["args"],
    signal: AbortSignal,
  ) => Calls[Name]["result"] | Promise<Calls[Name]["result"]>;
};

const ANSWERS: Answers = {
  tokenize: (opened, { prompt, addSpecialTokens, maxTokens }, signal) =>
    opened.turns.begin(promptWork(opened, prompt, { addSpecialTokens, maxTokens }), signal),
  detokenize: ({ text }, { tokenIds }) => text.tokenizer.decode(tokenIds),
  applyTemplate: ({ text, model }, { messages, template }) => {
    if (text.chatTemplate) return text.chatTemplate.render(messages, template);
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template; give it a plain prompt`);
  },
  vocabulary: ({ text, model }) => engineVocabulary(text.tokenizer, model.config),
  route: async (opened, { prompt, expert }, signal) => {
    const tokenIds = await promptIds(opened, prompt, signal);
    const router = await opened.routerFor(expert);
    const state = router.start();
    try {
      const [route] = await router.route([{ state, tokenIds }]);
      return { tokenIds, experts: route?.experts ?? new Uint16Array() };
    } finally {
      router.release(state);
    }
  },
  setScheduling: async ({ core }, options) => {
    core.scheduler = await schedulerOf(options);
  },
  setExpertCacheBytes: async ({ residency }, { bytes }) => {
    if (!residency.streamed) {
      throw new TypeError("Expected an engine that was opened with `expertCacheBytes`; all its experts are in memory");
    }
    await residency.streamed.setBudget(bytes);
  },
  stats: ({ core }) => ({ ...core.stats(), residentBytes: process.memoryUsage.rss() }),
};

export async function answerCall(
  opened: OpenedEngine,
  name: CallName,
  args: unknown,
  signal: AbortSignal,
): Promise<unknown> {
  const answer = ANSWERS[name] as (opened: OpenedEngine, args: unknown, signal: AbortSignal) => unknown;
  return answer(opened, args, signal);
}

/**
 * The tokens of a prompt. Takes turns with the prompts of others, and with the steps of what runs.
 *
 * @throws {RangeError} when there is no token
 * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when there is no room for one more; `ERR_CHAT_TEMPLATE`
 */
export async function promptIds(opened: OpenedEngine, prompt: WirePrompt, signal: AbortSignal): Promise<Int32Array> {
  const { sizes, turns } = opened;
  const tooMany = (tokens: string): ReadMeError => {
    const context = `the context of ${sizes.contextTokens} leaves no room for a completion`;
    return new ReadMeError("ERR_CONTEXT_LENGTH", `The prompt has ${tokens} tokens; ${context}`);
  };
  const limits = { maxTokens: sizes.contextTokens - 1, tooMany: (atLeast: number) => tooMany(`at least ${atLeast}`) };
  const ids = prompt instanceof Int32Array ? prompt : await turns.begin(promptWork(opened, prompt, limits), signal);
  if (ids.length === 0) throw new RangeError("Expected `prompt` to hold at least one token, got none");
  if (ids.length < sizes.contextTokens) return ids;
  throw tooMany(String(ids.length));
}

function promptWork(
  { text: { tokenizer, chatTemplate }, options: { controlTokensInMessages } }: OpenedEngine,
  prompt: Exclude<WirePrompt, Int32Array>,
  { addSpecialTokens, ...limits }: Limits,
): Generator<void, Int32Array> {
  const added = addSpecialTokens === undefined ? limits : { ...limits, addSpecialTokens };
  if (typeof prompt === "string") return tokenizer.encodeInSteps(prompt, added);
  return encodeChat(tokenizer, chatTemplate, prompt, { ...added, controlTokensInMessages });
}
