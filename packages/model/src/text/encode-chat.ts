import { ReadMeError, type ChatMessage } from "@readme-moe/core";
import type { ChatOptions, ChatTemplate } from "./chat-template.ts";
import { finish } from "./text-encoder.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";

/** Messages, and the variables of the template that turns them into a text. */
export interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly template: ChatOptions;
}

/**
 * The token ids of a chat, in steps as those of `Tokenizer.encodeInSteps`; the first one renders the template. Templates
 * write the BOS token themselves, so none is added.
 *
 * @param template - `undefined` when the model has none
 * @throws as `ChatTemplate.render`; {ReadMeError} `ERR_CHAT_TEMPLATE` when there is no template, `ERR_CONTEXT_LENGTH`
 */
export function* encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  { messages, template: options }: Chat,
  limits: Omit<EncodeOptions, "addSpecialTokens"> = {},
): Generator<void, Int32Array> {
  if (template === undefined) {
    throw new ReadMeError("ERR_CHAT_TEMPLATE", "This model has no chat template; give it a plain prompt");
  }
  const { maxTokens = Infinity, tooMany } = limits;
  // Each message has a token at least, and rendering it takes some 20 µs.
  if (Array.isArray(messages) && messages.length > maxTokens && tooMany) throw tooMany(messages.length);
  const text = template.render(messages, options);
  return yield* tokenizer.encodeInSteps(text, { ...limits, addSpecialTokens: false });
}

/** The same at once. */
export function applyChatTemplate(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Int32Array {
  return finish(encodeChat(tokenizer, template, { messages, template: options }));
}
