// Selects the part of a conversation that fits into the model's context.

import type { Message } from "./messages.ts";

/** Beginnings of turns for models without a chat template; an answer ends before the next one. */
export const TURNS = { user: "\nUser: ", assistant: "\nAssistant:" } as const;

/**
 * Formats a conversation as plain text, for models without a chat template. The text ends with the beginning of an
 * answer, or within the last one, which the model continues.
 */
export function transcriptOf(messages: readonly Message[]): string {
  const turns = messages.map(({ role, text }) => (role === "user" ? TURNS.user : `${TURNS.assistant} `) + text);
  return `${turns.join("")}${continues(messages) ? "" : TURNS.assistant}`.trimStart();
}

/** Whether the last message is an answer, which the model continues. */
export function continues(messages: readonly Message[]): boolean {
  return messages.at(-1)?.role === "assistant";
}

/**
 * Selects the last messages that fit, beginning with a message of the user.
 *
 * @param countTokens - counts a prompt's tokens; called only if it may be too long
 */
export async function fittingMessages(
  messages: readonly Message[],
  maxTokens: number,
  countTokens: (messages: readonly Message[]) => Promise<number>,
): Promise<readonly Message[]> {
  let kept = messages;
  while (kept.length > 1 && mostTokens(kept) > maxTokens) {
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
function mostTokens(messages: readonly Message[]): number {
  return messages.reduce((sum, { text }) => sum + 3 * text.length + 16, 16);
}
