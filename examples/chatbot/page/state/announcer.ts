import { signal, type Signal } from "@preact/signals";

/** Text for screen readers. */
export const announcement: Signal<string> = signal("");

export function announce(text: string): void {
  announcement.value = text;
}
