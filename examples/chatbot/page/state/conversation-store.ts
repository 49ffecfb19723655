// Stores conversations in the browser, up to a limit; the oldest are removed first.

import { hasWords, type Conversation } from "./messages.ts";

const PREFIX = "readme-moe.conversation.";
const MAX_CONVERSATIONS = 40;
/** The storage of a page has about five million characters. */
const MAX_CHARACTERS = 3_000_000;

/** An entry in the list of conversations. */
export type ConversationEntry = Pick<Conversation, "id" | "title" | "updatedMs">;

/** The members of a browser's `Storage` that are used. */
export interface TextStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, text: string): void;
  removeItem(key: string): void;
}

/** Lists the readable conversations, newest first. */
export function listConversations(storage: TextStorage): readonly ConversationEntry[] {
  const entries = keysOf(storage).flatMap((key) => headOf(storage.getItem(key)) ?? []);
  return entries.toSorted((a, b) => b.updatedMs - a.updatedMs);
}

/** Lists the conversations that have all words of a query, newest first. */
export function findConversations(storage: TextStorage, query: string): readonly ConversationEntry[] {
  const entries = listConversations(storage);
  if (query.trim() === "") return entries;
  return entries.filter(({ id }) => {
    const found = loadConversation(storage, id);
    return found !== undefined && hasWords(found, query.trim());
  });
}

/** Loads all readable conversations, newest first. */
export function loadAll(storage: TextStorage): readonly Conversation[] {
  return listConversations(storage).flatMap(({ id }) => loadConversation(storage, id) ?? []);
}

export function loadConversation(storage: TextStorage, id: string): Conversation | undefined {
  const text = storage.getItem(PREFIX + id);
  const conversation = parse(text?.slice(text.indexOf("\n") + 1)) as Conversation | null | undefined;
  return conversation && Array.isArray(conversation.messages) ? conversation : undefined;
}

export function removeConversation(storage: TextStorage, id: string): void {
  storage.removeItem(PREFIX + id);
}

/** Stores a conversation, and removes older ones for it if necessary. @returns whether there was room */
export function saveConversation(storage: TextStorage, conversation: Conversation): boolean {
  const { id, title, updatedMs } = conversation;
  // The first line is for the list, which does not parse the rest.
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
      // Other pages of the same origin may use the storage.
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
