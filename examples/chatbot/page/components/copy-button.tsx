import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { Icon } from "./icon.tsx";

const COPIED_MS = 2000;
const NAMES = { ready: "Copy", copied: "Copied", failed: "Not copied" } as const;

/** Copies a text, and says whether that worked. @param of - what is copied, for screen readers */
export function CopyButton({ text, of }: { readonly text: string; readonly of?: string }): JSX.Element {
  const state = useSignal<keyof typeof NAMES>("ready");
  const copy = async (): Promise<void> => {
    const isCopied = await (navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"))).then(
      () => true,
      () => false,
    );
    state.value = isCopied ? "copied" : "failed";
    setTimeout(() => (state.value = "ready"), COPIED_MS);
  };
  return (
    <button type="button" class="quiet" aria-live="polite" onClick={() => void copy()}>
      <Icon name={state.value === "copied" ? "check" : "copy"} />
      {NAMES[state.value]}
      {of !== undefined && <span class="hidden">{` ${of}`}</span>}
    </button>
  );
}
