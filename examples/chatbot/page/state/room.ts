// Divides the model's context between the prompt and the answer.

import type { Mode } from "./messages.ts";

/** Length of an answer whose end the model does not know. */
const BASE_MODEL_TOKENS = 256;
/** Part of the context that is kept for an answer without a limit. */
const ANSWER_PART = 1 / 4;
/** From this part on the page says that the context is almost full. */
const ALMOST_FULL = 0.8;

export interface RoomOptions {
  readonly contextTokens: number;
  readonly mode: Mode;
  readonly hasChatTemplate: boolean;
  /** The user's limit for answers; 0 for none. */
  readonly maxTokens: number;
}

/** Tokens of a prompt and of the answer to it. */
export interface Room {
  /** Longest prompt; earlier messages are left out for it. */
  readonly promptTokens: number;
  /** Longest answer. It may end sooner, at the end of the context. */
  readonly answerTokens: number;
}

/** Without a limit of the user's, an answer may take what the prompt leaves. */
export function roomFor({ contextTokens, mode, hasChatTemplate, maxTokens }: RoomOptions): Room {
  const isOpen = maxTokens === 0 && mode === "chat" && hasChatTemplate;
  const limit = isOpen ? contextTokens : maxTokens > 0 ? maxTokens : BASE_MODEL_TOKENS;
  const kept = Math.min(isOpen ? contextTokens * ANSWER_PART : limit, contextTokens / 2);
  return { promptTokens: contextTokens - Math.floor(kept), answerTokens: Math.min(limit, contextTokens) };
}

/** Describes how full the context is; `undefined` while there is plenty of room. */
export function fullness(usedTokens: number, contextTokens: number): string | undefined {
  if (usedTokens < contextTokens * ALMOST_FULL) return undefined;
  const percent = Math.min(100, Math.round((100 * usedTokens) / contextTokens));
  return `This conversation fills ${percent} % of the model's context. When it is full, the oldest messages are left out.`;
}
