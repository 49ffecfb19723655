// Conversations and messages as plain data.

import type { Source } from "../../shared/live.ts";

export type Mode = "chat" | "continue";

/** The way in which an answer ended. */
export type Ending =
  | "done"
  /** It reached the largest number of tokens. */
  | "full"
  /** It reached the end of the model's context. */
  | "context"
  /** The user stopped it. */
  | "stopped"
  /** The connection was lost. */
  | "cut"
  /** The server refused. */
  | "failed";

/** A piece of an answer: number of characters, and the expert of its last token; -1 for none. */
export type Span = readonly [length: number, expert: number];

/** A text file that belongs to a message. */
export interface Attachment {
  readonly name: string;
  readonly text: string;
  readonly tokens: number;
}

export interface Message {
  readonly id: string;
  readonly role: "user" | "assistant";
  readonly text: string;
  readonly attachments?: readonly Attachment[];
  /** Pieces of an answer; together as long as `text`. */
  readonly spans?: readonly Span[];
  /** Text that the model wrote before its answer. */
  readonly reasoning?: string;
  readonly reasoningMs?: number;
  readonly ending?: Ending;
  /** The server's message, or a note about messages that were left out. */
  readonly note?: string;
  /** Pieces of the server's documents that the model had for an answer, nearest first. */
  readonly sources?: readonly Source[];
  /** Names of the experts of the model that answered. */
  readonly experts?: readonly string[];
  /** Whether the answer may be Markdown, which a model that only continues texts does not write. @default true */
  readonly isFormatted?: boolean;
  readonly model?: string;
  /** The expert that the user chose for the answer. */
  readonly expert?: string;
  readonly tokens?: number;
  readonly durationMs?: number;
  /** Tokens of the prompt and the answer together. */
  readonly contextTokens?: number;
}

export interface Conversation {
  readonly id: string;
  readonly title: string;
  /** Whether the user chose the title. */
  readonly isNamed?: boolean;
  readonly mode: Mode;
  /** Instructions that precede all messages. */
  readonly system?: string;
  readonly messages: readonly Message[];
  readonly updatedMs: number;
}

export function newId(): string {
  return Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
}

export function newConversation(mode: Mode): Conversation {
  return { id: newId(), title: "New conversation", mode, messages: [], updatedMs: Date.now() };
}

/** Makes a title from the first words of the first message. */
export function titleOf(messages: readonly Message[]): string {
  const [first] = messages;
  const words = (first?.text.trim() || first?.attachments?.[0]?.name || "").replaceAll(/\s+/g, " ");
  if (words === "") return "New conversation";
  return words.length > 42 ? `${words.slice(0, 40)}…` : words;
}

/** Whether a conversation has all words of a query, in its title or its messages. */
export function hasWords({ title, messages }: Conversation, query: string): boolean {
  const text = [title, ...messages.map((message) => message.text)].join("\n").toLowerCase();
  return query
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

/** Name of the writer of an answer: the model, with the expert if the user chose one. */
export function authorOf({ model = "Model", expert }: Message): string {
  return expert === undefined ? model : `${model} · ${expert}`;
}

/** Lists the writers of a conversation's answers in the order of their first answers. */
export function authorsOf(messages: readonly Message[]): readonly string[] {
  return [...new Set(messages.filter(({ role }) => role === "assistant").map(authorOf))];
}

/** Merges neighbours with the same expert if there are more than `most`, the number that a page renders fast. */
export function mergeSpans(spans: readonly Span[], most = 400): readonly Span[] {
  if (spans.length <= most) return spans;
  const merged: [number, number][] = [];
  for (const [length, expert] of spans) {
    const last = merged.at(-1);
    if (last?.[1] === expert) last[0] += length;
    else merged.push([length, expert]);
  }
  return merged;
}

/** Counts an answer's tokens by expert, largest count first. */
export function expertShares(spans: readonly Span[]): readonly (readonly [expert: number, tokens: number])[] {
  const counts = new Map<number, number>();
  for (const [, expert] of spans) if (expert >= 0) counts.set(expert, (counts.get(expert) ?? 0) + 1);
  return [...counts].toSorted((a, b) => b[1] - a[1] || a[0] - b[0]);
}
