// The questions of `Calls`, answered on the worker's side.

import type { Calls, CallName, WirePrompt } from "../protocol.ts";
import { applyChatTemplate } from "@readme-moe/model";
import { ReadMeError } from "@readme-moe/core";
import { engineVocabulary } from "./engine-vocabulary.ts";
import { schedulerOf } from "../scheduling-options.ts";
import type { OpenedEngine } from "./open-parts.ts";

type Answers = {
  readonly [Name in CallName]: (
    opened: OpenedEngine,
    args: Calls[Name]["args"],
  ) => Calls[Name]["result"] | Promise<Calls[Name]["result"]>;
};

const ANSWERS: Answers = {
  tokenize: ({ text }, args) => text.tokenizer.encode(args.text, { addSpecialTokens: args.addSpecialTokens }),
  detokenize: ({ text }, { tokenIds }) => text.tokenizer.decode(tokenIds),
  applyTemplate: ({ text, model }, { messages, template }) => {
    if (text.chatTemplate) return text.chatTemplate.render(messages, template);
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${model.path}: has no chat template; give it a plain prompt`);
  },
  vocabulary: ({ text, model }) => engineVocabulary(text.tokenizer, model.config),
  route: async (opened, { prompt, expert }) => {
    const tokenIds = promptIds(opened, prompt);
    const router = await opened.routerFor(expert);
    const state = router.start();
    const [route] = await router.route([{ state, tokenIds }]);
    router.release(state);
    return { tokenIds, experts: route?.experts ?? new Uint16Array() };
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

export async function answerCall(opened: OpenedEngine, name: CallName, args: unknown): Promise<unknown> {
  const answer = ANSWERS[name] as (opened: OpenedEngine, args: unknown) => unknown;
  return answer(opened, args);
}

/**
 * @throws {RangeError} when there is no token
 * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when there is no room for one more; `ERR_CHAT_TEMPLATE`
 */
export function promptIds({ text, sizes }: OpenedEngine, prompt: WirePrompt): Int32Array {
  const { tokenizer, chatTemplate } = text;
  const ids =
    typeof prompt === "string"
      ? tokenizer.encode(prompt)
      : prompt instanceof Int32Array
        ? prompt
        : applyChatTemplate(tokenizer, chatTemplate, prompt.messages, prompt.template);
  if (ids.length === 0) throw new RangeError("Expected `prompt` to hold at least one token, got none");
  if (ids.length < sizes.maxTokens) return ids;
  throw new ReadMeError(
    "ERR_CONTEXT_LENGTH",
    `The prompt has ${ids.length} tokens; the context of ${sizes.maxTokens} leaves no room for a completion`,
  );
}
