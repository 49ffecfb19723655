// Tools, calls and their results in the messages of a chat, as its template understands them.

import type { ChatContentPart, ChatMessage } from "@readme-moe/core";
import { callText, toolsPrompt } from "./call-format.ts";
import type { ToolDefinition } from "./definitions.ts";

interface ToolCall {
  readonly function: { readonly name: string; readonly arguments: string };
}

/** For templates with a place for tools: they write arguments as JSON themselves, so they get them as values. */
export function nativeMessages(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  return messages.map((message) => {
    const calls = callsOf(message);
    if (calls.length === 0) return message;
    const read = calls.map((call) => ({ ...call, function: { ...call.function, arguments: valueOf(call) } }));
    return { ...message, content: message.content ?? "", tool_calls: read };
  });
}

/** For other templates: everything becomes text of the roles that every template knows. */
export function plainMessages(
  messages: readonly ChatMessage[],
  tools: readonly ToolDefinition[],
): readonly ChatMessage[] {
  const plain: ChatMessage[] = [];
  let isAfterResult = false;
  for (const message of messages) {
    const isResult = message.role === "tool";
    const last = plain.at(-1);
    if (isResult && isAfterResult && last) {
      // Results of calls that were made together are one turn.
      plain[plain.length - 1] = { ...last, content: `${textOf(last)}\n${resultText(message)}` };
    } else plain.push(isResult ? { role: "user", content: resultText(message) } : withCallsAsText(message));
    isAfterResult = isResult;
  }
  return tools.length === 0 ? plain : withSystemText(plain, toolsPrompt(tools));
}

function withCallsAsText(message: ChatMessage): ChatMessage {
  const calls = callsOf(message);
  if (calls.length === 0) return message;
  const { tool_calls: _, ...rest } = message;
  const texts = calls.map(({ function: { name, arguments: args } }) => callText(name, args));
  return { ...rest, content: [textOf(message), ...texts].filter((text) => text !== "").join("\n") };
}

function withSystemText(messages: readonly ChatMessage[], text: string): readonly ChatMessage[] {
  const [first, ...rest] = messages;
  if (first?.role !== "system") return [{ role: "system", content: text }, ...messages];
  return [{ ...first, content: `${textOf(first)}\n\n${text}` }, ...rest];
}

function resultText(message: ChatMessage): string {
  return `<tool_response>\n${textOf(message)}\n</tool_response>`;
}

function callsOf({ tool_calls: calls }: ChatMessage): readonly ToolCall[] {
  return Array.isArray(calls) ? (calls as readonly ToolCall[]) : [];
}

/** Text that is no JSON, which a client may send, stays what it is. */
function valueOf({ function: { arguments: text } }: ToolCall): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function textOf({ content }: ChatMessage): string {
  if (typeof content === "string") return content;
  const parts: readonly ChatContentPart[] = content ?? [];
  return parts.map((part) => (typeof part["text"] === "string" ? part["text"] : "")).join("\n");
}
