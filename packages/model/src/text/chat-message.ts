import { describeValue, type ChatMessage } from "@readme-moe/core";

/** @throws {TypeError} naming the index of the message, what was expected and what came */
export function checkMessages(messages: unknown): asserts messages is readonly ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    const given = Array.isArray(messages) ? "an empty array" : describeValue(messages);
    throw new TypeError(`Expected \`messages\` to be an array of at least one { role, content }, got ${given}`);
  }
  for (const [index, message] of (messages as unknown[]).entries()) checkMessage(`messages[${index}]`, message);
}

function checkMessage(name: string, message: unknown): void {
  if (!isObject(message)) throw unexpected(name, "an object { role, content }", message);
  const { role, content } = message;
  if (typeof role !== "string") throw unexpected(`${name}.role`, "a string", role);
  if (typeof content === "string" || content === null) return;
  if (content === undefined && Array.isArray(message["tool_calls"])) return;
  if (!Array.isArray(content)) throw unexpected(`${name}.content`, "a string, an array of parts or null", content);
  for (const [index, part] of (content as unknown[]).entries()) {
    const { type, text } = isObject(part) ? part : {};
    if (typeof type !== "string") throw unexpected(`${name}.content[${index}]`, "an object with a string `type`", part);
    if (type === "text" && typeof text !== "string") {
      throw unexpected(`${name}.content[${index}].text`, "a string", text);
    }
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function unexpected(name: string, expectation: string, value: unknown): TypeError {
  return new TypeError(`Expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
}
