import { signal, type Signal } from "@preact/signals";

/** What a screen reader is to say. */
export const announcement: Signal<string> = signal("");

export function announce(text: string): void {
  announcement.value = text;
}
