// Selects the part of a conversation that fits into the model's context, and writes it as the API expects it.

import type { Message } from "./messages.ts";

/** Beginnings of turns for models without a chat template; an answer ends before the next one. */
const TURNS = { user: "\nUser: ", assistant: "\nAssistant:" } as const;

/** A message as the API takes it. */
export interface ApiMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  readonly reasoning_content?: string;
}

/** Returns a message's text after its attachments, each in a fence that its own text cannot close. */
export function contentOf({ text, attachments = [] }: Message): string {
  const files = attachments.map((file) => {
    const fence = fenceFor(file.text);
    return `${file.name}:\n${fence}\n${file.text.replace(/\n$/, "")}\n${fence}`;
  });
  return [...files, ...(text === "" ? [] : [text])].join("\n\n");
}

/** Returns a row of backticks that is longer than any in the text. */
function fenceFor(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map(({ length }) => length));
  return "`".repeat(longest + 1);
}

/** Templates drop the reasoning of earlier answers; only an answer that is continued has it. */
export function apiMessages(messages: readonly Message[], system = ""): readonly ApiMessage[] {
  const all = messages.map((message, index): ApiMessage => {
    const isContinued = index === messages.length - 1 && message.role === "assistant";
    const reasoning = isContinued && message.reasoning ? { reasoning_content: message.reasoning } : {};
    return { role: message.role, content: contentOf(message), ...reasoning };
  });
  return system.trim() === "" ? all : [{ role: "system", content: system }, ...all];
}

/**
 * Formats a conversation as plain text, for models without a chat template. The text ends with the beginning of an
 * answer, or within the last one, which the model continues.
 */
export function transcriptOf(messages: readonly Message[], system = ""): string {
  const turns = messages.map((message) =>
    message.role === "user" ? TURNS.user + contentOf(message) : `${TURNS.assistant} ${message.text}`,
  );
  return `${system.trim()}${turns.join("")}${continues(messages) ? "" : TURNS.assistant}`.trimStart();
}

/** Whether the last message is an answer, which the model continues. */
export function continues(messages: readonly Message[]): boolean {
  return messages.at(-1)?.role === "assistant";
}

/** Finds a turn of the user that the model has made up. @returns its position, or -1 */
export function madeUpTurn(text: string): number {
  return text.indexOf(TURNS.user.trimEnd());
}

/**
 * Selects the last messages that fit, beginning with a message of the user.
 *
 * @param countTokens - counts a prompt's tokens; called only if it may be too long
 * @param otherTokens - bound for tokens of the prompt that belong to no message
 */
export async function fittingMessages(
  messages: readonly Message[],
  maxTokens: number,
  countTokens: (messages: readonly Message[]) => Promise<number>,
  otherTokens = 0,
): Promise<readonly Message[]> {
  let kept = messages;
  while (kept.length > 1 && mostTokens(kept) + otherTokens > maxTokens) {
    const tokens = await countTokens(kept);
    if (tokens <= maxTokens) break;
    // Drops a part in proportion to the excess, at least one question with its answer.
    const excess = Math.max(2, Math.floor(kept.length * (1 - maxTokens / tokens)));
    kept = kept.slice(Math.min(excess, kept.length - 1));
    while (kept.length > 1 && kept[0]?.role !== "user") kept = kept.slice(1);
  }
  return kept;
}

/** Bounds the number of tokens: a text has at most as many as bytes, and a turn adds few. */
export function mostTokens(messages: readonly Message[]): number {
  return messages.reduce((sum, message) => sum + 3 * contentOf(message).length + 16, 16);
}
