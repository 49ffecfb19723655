// The conversations of this browser, and the one that is open.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { announce } from "./announcer.ts";
import {
  findConversations,
  listConversations,
  loadAll,
  loadConversation,
  removeConversation,
  saveConversation,
  type ConversationEntry,
} from "./conversation-store.ts";
import { newConversation, titleOf, type Conversation } from "./messages.ts";
import { notice } from "./notice.ts";
import { mode } from "./settings.ts";

const entries: Signal<readonly ConversationEntry[]> = signal(listConversations(localStorage));
export const query: Signal<string> = signal("");
/** The conversations that the search finds. */
export const found: ReadonlySignal<readonly ConversationEntry[]> = computed(() => {
  const all = entries.value;
  return query.value.trim() === "" ? all : findConversations(localStorage, query.value);
});
export const conversation: Signal<Conversation> = signal(
  loadConversation(localStorage, entries.value[0]?.id ?? "") ?? newConversation(mode.value),
);

const SAVED_MS = 10_000;

/** Stores a conversation with a new date. */
export function keep(changed: Conversation): void {
  const title = changed.isNamed ? changed.title : titleOf(changed.messages);
  store({ ...changed, title, updatedMs: Date.now() });
}

/** Stores a conversation as it is. */
function store(changed: Conversation): void {
  if (conversation.value.id === changed.id) conversation.value = changed;
  // A conversation without messages is stored with the first one.
  if (changed.messages.length > 0 && !saveConversation(localStorage, changed)) {
    notice.value = { text: "The browser has no room for this conversation." };
  }
  entries.value = listConversations(localStorage);
}

/** Returns a conversation as it is now; `undefined` if it was deleted. */
export function current(id: string): Conversation | undefined {
  return conversation.value.id === id ? conversation.value : loadConversation(localStorage, id);
}

export function startConversation(): void {
  notice.value = undefined;
  if (conversation.value.messages.length > 0) conversation.value = newConversation(mode.value);
}

export function openConversation(id: string): void {
  const opened = loadConversation(localStorage, id);
  if (!opened || opened.id === conversation.value.id) return;
  notice.value = undefined;
  conversation.value = opened;
  mode.value = opened.mode;
}

/** @param title - words; the first message's words again if there are none */
export function renameConversation(id: string, title: string): void {
  const renamed = current(id);
  if (!renamed) return;
  const words = title.trim();
  store({ ...renamed, title: words === "" ? titleOf(renamed.messages) : words, isNamed: words !== "" });
  announce("Renamed");
}

export function setSystem(system: string): void {
  store({ ...conversation.value, system });
}

/** Deletes a conversation, and offers to bring it back. */
export function deleteConversation(id: string): void {
  const deleted = current(id);
  removeConversation(localStorage, id);
  entries.value = listConversations(localStorage);
  const wasOpen = conversation.value.id === id;
  if (wasOpen) conversation.value = newConversation(mode.value);
  if (!deleted) return;
  const undo = (): void => {
    store(deleted);
    if (wasOpen) openConversation(id);
  };
  notice.value = { text: `Deleted “${deleted.title}”.`, action: { label: "Undo", run: undo } };
}

/** Offers one conversation, or all of them, as a file. */
export async function exportConversations(format: "md" | "json", id?: string): Promise<void> {
  const { fileNameOf, toJson, toMarkdown } = await import("./transfer.ts");
  const all = id === undefined ? loadAll(localStorage) : [current(id)].filter((one) => one !== undefined);
  const [first] = all;
  if (!first) return;
  const text = format === "md" ? toMarkdown(first) : toJson(all);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: format === "md" ? "text/markdown" : "application/json" }));
  link.download = fileNameOf(id === undefined ? "conversations" : first.title, format);
  link.click();
  // Some browsers read the file only later.
  setTimeout(() => URL.revokeObjectURL(link.href), SAVED_MS);
}

/** Reads exported conversations. Of two with the same id, the newer one stays. */
export async function importConversations(file: Blob): Promise<void> {
  try {
    const { fromJson } = await import("./transfer.ts");
    const all = fromJson(await file.text());
    const added = all.filter(({ id, updatedMs }) => (current(id)?.updatedMs ?? -1) < updatedMs);
    // The newest is stored last, so that it stays if there is no room for all.
    for (const one of added.toSorted((a, b) => a.updatedMs - b.updatedMs)) store(one);
    const others = all.length - added.length;
    notice.value = { text: `Imported ${added.length}${others > 0 ? `; ${others} were here already` : ""}.` };
  } catch (error) {
    notice.value = { text: error instanceof Error ? error.message : String(error) };
  }
}
