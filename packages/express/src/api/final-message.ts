// Answers that the request has begun: the model goes on with the last message.

import { invalid, unsupported } from "../http/errors.ts";
import { usableTools } from "../tools/tools.ts";
import type { ChatBody } from "./request-schemas.ts";
import { structuredOutput } from "./structured-output.ts";

/**
 * Checks that the last message can be continued, where a request asks for it. A format or calls of tools would bind
 * the continuation alone, and not the answer as a whole.
 *
 * @throws {ApiError} 400
 */
export function checkContinued(body: ChatBody): void {
  if (!body.continue_final_message) return;
  if (body.add_generation_prompt) {
    throw unsupported(
      "add_generation_prompt",
      "'add_generation_prompt' is not supported beside `continue_final_message`",
    );
  }
  const index = body.messages.length - 1;
  const last = body.messages[index];
  if (last?.role !== "assistant" || textOf(last) === undefined) {
    throw invalid(`messages[${index}]`, "expected the assistant's text, since `continue_final_message` is set");
  }
  const output = structuredOutput(body);
  if (output)
    throw unsupported("continue_final_message", `'continue_final_message' is not supported beside '${output.param}'`);
  if (usableTools(body).callable.length === 0) return;
  throw unsupported(
    "continue_final_message",
    "'continue_final_message' is not supported beside `tools` that may be called",
  );
}

/** Returns the messages with one text as the content of the last one, where it is continued. */
export function withFinalText(
  { continue_final_message: isContinued }: ChatBody,
  messages: ChatBody["messages"],
): ChatBody["messages"] {
  const last = messages.at(-1);
  const text = last && textOf(last);
  if (!isContinued || last?.role !== "assistant" || text === undefined) return messages;
  return [...messages.slice(0, -1), { ...last, content: text }];
}

/** Returns a message's text; `undefined` for none, and beside calls. */
function textOf(message: ChatBody["messages"][number]): string | undefined {
  const { content } = message;
  if ("tool_calls" in message && (message.tool_calls ?? []).length > 0) return undefined;
  if (content === null || content === undefined) return undefined;
  return joinedText(content);
}

/** Joins the parts of a content. */
export function joinedText(content: string | readonly { readonly text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}
