// The user's settings, stored for the next visit.

import { effect, signal, type Signal } from "@preact/signals";
import type { Mode } from "./messages.ts";

export type Theme = "auto" | "light" | "dark";
/** The form in which answers are shown: tokens by expert, formatted text, or what suits the model. */
export type View = "auto" | "experts" | "text";

function kept<Value extends string | number | boolean>(name: string, fallback: Value): Signal<Value> {
  const key = `readme-moe.setting.${name}`;
  const found = signal(read(key, fallback));
  effect(() => {
    try {
      localStorage.setItem(key, JSON.stringify(found.value));
    } catch {
      // Without storage a setting lasts as long as the page.
    }
  });
  return found;
}

function read<Value>(key: string, fallback: Value): Value {
  try {
    const value = JSON.parse(localStorage.getItem(key) ?? "null") as Value | null;
    return typeof value === typeof fallback ? (value as Value) : fallback;
  } catch {
    return fallback;
  }
}

export const theme: Signal<Theme> = kept<Theme>("theme", "auto");
export const view: Signal<View> = kept<View>("view", "auto");
/** Whether the expert's number is shown where the expert changes. */
export const showsNumbers: Signal<boolean> = kept<boolean>("numbers", false);
export const mode: Signal<Mode> = kept<Mode>("mode", "chat");
export const modelName: Signal<string> = kept<string>("model", "");
/** The expert of all tokens of the next answer; "" where the model decides. */
export const expertName: Signal<string> = kept<string>("expert", "");
export const temperature: Signal<number> = kept<number>("temperature", 0.3);
/** Longest answer; 0 for as long as the context allows. */
export const maxTokens: Signal<number> = kept<number>("answerTokens", 0);
/** Whether the server's documents are searched for each question. */
export const asksDocuments: Signal<boolean> = kept<boolean>("documents", false);
/** Whether the list of conversations is shown on a wide screen. */
export const showsConversations: Signal<boolean> = kept<boolean>("conversations", true);
export const showsLive: Signal<boolean> = kept<boolean>("live", false);

effect(() => {
  document.documentElement.dataset["theme"] = theme.value;
});
