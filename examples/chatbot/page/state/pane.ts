// Panes beside the chat, open or closed.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { showsConversations, showsLive } from "./settings.ts";

const narrow = matchMedia("(max-width: 56rem)");
/** Whether the screen has room for the chat alone; what is open then covers it. */
export const isNarrow: Signal<boolean> = signal(narrow.matches);
/** The part that covers the chat on a narrow screen. */
const cover: Signal<"none" | "conversations" | "live"> = signal<"none" | "conversations" | "live">("none");
narrow.addEventListener("change", () => {
  isNarrow.value = narrow.matches;
  cover.value = "none";
});

export const hasConversations: ReadonlySignal<boolean> = computed(() =>
  isNarrow.value ? cover.value === "conversations" : showsConversations.value,
);
export const hasLive: ReadonlySignal<boolean> = computed(() =>
  isNarrow.value ? cover.value === "live" : showsLive.value,
);
/** Whether the chat is covered. */
export const isCovered: ReadonlySignal<boolean> = computed(() => isNarrow.value && cover.value !== "none");

export function toggleConversations(): void {
  if (isNarrow.value) cover.value = cover.value === "conversations" ? "none" : "conversations";
  else showsConversations.value = !showsConversations.value;
}

export function toggleLive(): void {
  if (isNarrow.value) cover.value = cover.value === "live" ? "none" : "live";
  else showsLive.value = !showsLive.value;
}

/** Uncovers the chat. */
export function showChat(): void {
  cover.value = "none";
}
