import { checkTemplateValues, ReadMeError, type ChatMessage } from "@readme-moe/core";
import type { ChatOptions, ChatTemplate } from "./chat-template.ts";
import { finish } from "./pausing.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";

/** Messages, and the variables of the template that turns them into a text. */
export interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly template: ChatOptions;
}

/**
 * Meaning of a control token's spelling, such as `<|im_end|>`, in the strings of messages, tools and the template's
 * other variables: text like any other, or the control token.
 */
export type ControlTokensInMessages = "text" | "control";

export interface EncodeChatOptions extends Pick<EncodeOptions, "maxTokens" | "tooMany" | "addSpecialTokens"> {
  /** @default "text" */
  readonly controlTokensInMessages?: ControlTokensInMessages;
}

/**
 * Encodes a chat in steps like those of `Tokenizer.encodeInSteps`, of which an early one renders the template.
 * Templates write the BOS token themselves, so none is added by default.
 *
 * @param template - `undefined` when the model has none
 * @throws as `ChatTemplate.render`; {ReadMeError} `ERR_CHAT_TEMPLATE` when there is no template, `ERR_CONTEXT_LENGTH`
 */
export function* encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  chat: Chat,
  options: EncodeChatOptions = {},
): Generator<void, Int32Array> {
  if (template === undefined) {
    throw new ReadMeError("ERR_CHAT_TEMPLATE", "This model has no chat template; give it a plain prompt");
  }
  const { controlTokensInMessages = "text", addSpecialTokens = false, maxTokens = Infinity, tooMany } = options;
  // Each message has at least one token, and rendering it takes some 20 µs.
  if (Array.isArray(chat.messages) && chat.messages.length > maxTokens && tooMany) throw tooMany(chat.messages.length);
  const limits = { addSpecialTokens, maxTokens, ...(tooMany && { tooMany }) };
  checkTemplateValues(chat.messages, chat.template);
  if (controlTokensInMessages === "control") {
    return yield* tokenizer.encodeInSteps(template.render(chat.messages, chat.template), limits);
  }
  const guard = tokenizer.guard(template.freeMarks);
  const { value, isMarked } = yield* guard.guard([chat.messages, ...Object.values(chat.template)] as const);
  const [messages, ...values] = value;
  const variables = Object.fromEntries(Object.keys(chat.template).map((name, index) => [name, values[index]]));
  return yield* tokenizer.encodeInSteps(template.render(messages, variables), isMarked ? { ...limits, guard } : limits);
}

/** Encodes a chat without pauses. */
export function applyChatTemplate(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Int32Array {
  return finish(encodeChat(tokenizer, template, { messages, template: options }));
}
