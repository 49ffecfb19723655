// What of a conversation a model is asked: as much as fits, the newest first.

import type { Message } from "./messages.ts";

/** Begins a turn where a model has no chat template of its own; an answer ends before one. */
export const TURNS = { user: "\nUser: ", assistant: "\nAssistant:" } as const;

/** A conversation as a plain text, for models without a chat template. */
export function transcriptOf(messages: readonly Message[]): string {
  const turns = messages.map(({ role, text }) => (role === "user" ? TURNS.user : `${TURNS.assistant} `) + text);
  return `${turns.join("")}${TURNS.assistant}`.trimStart();
}

/**
 * The end of a conversation that has room, beginning with what the user said.
 *
 * @param countTokens - of a prompt; asked only where it may be too long
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
    // As large a part as there is too much, but at least one question with its answer.
    const excess = Math.max(2, Math.floor(kept.length * (1 - maxTokens / tokens)));
    kept = kept.slice(Math.min(excess, kept.length - 1));
    while (kept.length > 1 && kept[0]?.role !== "user") kept = kept.slice(1);
  }
  return kept;
}

/** No text has more tokens than bytes; a turn's own tokens are few. */
function mostTokens(messages: readonly Message[]): number {
  return messages.reduce((sum, { text }) => sum + 3 * text.length + 16, 16);
}
