// Requests to `/v1/responses` as requests for a chat.

import { without } from "../api/request-fields.ts";
import type { ChatBody } from "../api/request-schemas.ts";
import type { ConversationItem, ResponsesBody } from "./request-schemas.ts";

type ChatMessages = ChatBody["messages"];
type AssistantMessage = Extract<ChatMessages[number], { role: "assistant" }>;
type ToolCalls = NonNullable<AssistantMessage["tool_calls"]>;

/** Fields that a chat has under another name, or not at all. */
const OWN_FIELDS = [
  "input",
  "instructions",
  "max_output_tokens",
  "include",
  "tools",
  "tool_choice",
  "max_tool_calls",
  "text",
  "reasoning",
  "previous_response_id",
  "truncation",
  "stream_options",
  "background",
  "conversation",
  "prompt",
  "context_management",
  "top_logprobs",
] as const satisfies readonly (keyof ResponsesBody)[];

/** Returns the body of the chat. @param items - the whole conversation, earlier responses included */
export function chatBodyOf(body: ResponsesBody, items: readonly ConversationItem[]): ChatBody {
  const { text, tools, tool_choice: choice, reasoning, top_logprobs: topLogprobs } = body;
  const hasLogprobs = body.include?.includes("message.output_text.logprobs") ?? false;
  return {
    ...without(body, OWN_FIELDS),
    messages: [...instructionsOf(body), ...messagesOf(items)],
    max_completion_tokens: body.max_output_tokens,
    logprobs: hasLogprobs || (topLogprobs ?? 0) > 0,
    top_logprobs: topLogprobs,
    tools: tools?.map(({ type, ...definition }) => ({ type, function: definition })),
    tool_choice: typeof choice === "object" && choice ? { type: choice.type, function: { name: choice.name } } : choice,
    response_format: formatOf(text),
    reasoning_effort: reasoning?.effort,
  };
}

function instructionsOf({ instructions }: ResponsesBody): ChatMessages {
  return instructions == null ? [] : [{ role: "system", content: instructions }];
}

function formatOf(text: ResponsesBody["text"]): ChatBody["response_format"] {
  const format = text?.format;
  if (format?.type !== "json_schema") return format;
  const { type, ...schema } = format;
  return { type, json_schema: schema };
}

/**
 * Returns the items as messages. Reasoning, text and calls that follow one another are one message of the assistant.
 */
function messagesOf(items: readonly ConversationItem[]): ChatMessages {
  const messages: ChatMessages = [];
  /** Message of the assistant that further items belong to. */
  let open: AssistantMessage | undefined;
  const assistant = (): AssistantMessage => {
    if (!open) messages.push((open = { role: "assistant" }));
    return open;
  };
  for (const item of items) {
    switch (item.type) {
      case "reasoning":
        // Reasoning begins a turn.
        if (open?.content != null || open?.tool_calls) open = undefined;
        assistant().reasoning_content = joined(open?.reasoning_content, reasoningText(item));
        break;
      case "function_call": {
        const calls: ToolCalls = (assistant().tool_calls ??= []);
        calls.push({ id: item.call_id, type: "function", function: { name: item.name, arguments: item.arguments } });
        break;
      }
      case "function_call_output":
        open = undefined;
        messages.push({ role: "tool", tool_call_id: item.call_id, content: textOf(item.output) });
        break;
      case "message": {
        const { role } = item;
        if (role === "assistant") {
          if (open?.content != null || open?.tool_calls) open = undefined;
          assistant().content = textOf(item.content);
        } else {
          open = undefined;
          messages.push({ role, content: textOf(item.content) });
        }
        break;
      }
      default:
        throw new TypeError(`Unknown item: ${JSON.stringify(item satisfies never)}`);
    }
  }
  // Reasoning alone, whose answer was cut off, is a turn without text.
  for (const message of messages) {
    if (message.role === "assistant" && message.content == null && !message.tool_calls) message.content = "";
  }
  return messages;
}

function reasoningText({ content, summary }: Extract<ConversationItem, { type: "reasoning" }>): string {
  const parts = content && content.length > 0 ? content : summary;
  return parts.map(({ text }) => text).join("\n");
}

function joined(before: string | null | undefined, text: string): string {
  return before == null || before === "" ? text : `${before}\n${text}`;
}

function textOf(content: string | readonly { readonly text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("\n");
}
