// Conversations in the browser, within bounds: the oldest go when there is no room.

import type { Conversation } from "./messages.ts";

const PREFIX = "readme-moe.conversation.";
const MAX_CONVERSATIONS = 40;
/** The storage of a page has about five million characters. */
const MAX_CHARACTERS = 3_000_000;

/** What a list of conversations shows. */
export type ConversationEntry = Pick<Conversation, "id" | "title" | "updatedMs">;

/** What is used of a browser's `Storage`. */
export interface TextStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, text: string): void;
  removeItem(key: string): void;
}

/** Newest first. What cannot be read is left out. */
export function listConversations(storage: TextStorage): readonly ConversationEntry[] {
  const entries = keysOf(storage).flatMap((key) => headOf(storage.getItem(key)) ?? []);
  return entries.toSorted((a, b) => b.updatedMs - a.updatedMs);
}

export function loadConversation(storage: TextStorage, id: string): Conversation | undefined {
  const text = storage.getItem(PREFIX + id);
  const conversation = parse(text?.slice(text.indexOf("\n") + 1)) as Conversation | null | undefined;
  return conversation && Array.isArray(conversation.messages) ? conversation : undefined;
}

export function removeConversation(storage: TextStorage, id: string): void {
  storage.removeItem(PREFIX + id);
}

/** @returns whether there was room for it, if need be in the place of older ones */
export function saveConversation(storage: TextStorage, conversation: Conversation): boolean {
  const { id, title, updatedMs } = conversation;
  // A line for the list, which does not read the rest.
  const text = `${JSON.stringify({ id, title, updatedMs })}\n${JSON.stringify(conversation)}`;
  const others = listConversations(storage).filter((other) => other.id !== id);
  const sizes = new Map(others.map((other) => [other.id, storage.getItem(PREFIX + other.id)?.length ?? 0]));
  let total = text.length + [...sizes.values()].reduce((sum, size) => sum + size, 0);
  const drop = (): boolean => {
    const oldest = others.pop();
    if (!oldest) return false;
    total -= sizes.get(oldest.id) ?? 0;
    removeConversation(storage, oldest.id);
    return true;
  };
  const isFull = (): boolean => others.length >= MAX_CONVERSATIONS || total > MAX_CHARACTERS;
  while (isFull() && drop());
  for (;;) {
    try {
      storage.setItem(PREFIX + conversation.id, text);
      return true;
    } catch {
      // Others of the same origin may have taken the room.
      if (!drop()) return false;
    }
  }
}

function keysOf(storage: TextStorage): readonly string[] {
  return Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? "").filter((key) =>
    key.startsWith(PREFIX),
  );
}

function headOf(text: string | null): ConversationEntry | undefined {
  const entry = parse(text?.slice(0, text.indexOf("\n"))) as ConversationEntry | null | undefined;
  return entry && typeof entry.id === "string" ? entry : undefined;
}

function parse(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "null");
  } catch {
    return undefined;
  }
}
