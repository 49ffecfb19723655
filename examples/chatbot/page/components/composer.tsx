import { signal, useSignalEffect, type Signal } from "@preact/signals";
import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { editing, isAnswering, send, stop } from "../state/chat.ts";
import { model } from "../state/live-connection.ts";
import { maxTokens, mode, temperature } from "../state/settings.ts";

const text: Signal<string> = signal("");
const MAX_ROWS = 8;

/** Moves the cursor into the message box. @param content - new text of the box */
export function focusComposer(content?: string): void {
  if (content !== undefined) text.value = content;
  document.getElementById("composer")?.focus();
}

export function Composer(): JSX.Element {
  const box = useRef<HTMLTextAreaElement>(null);
  useSignalEffect(() => {
    const rows = text.value.split("\n").length;
    if (box.current) box.current.rows = Math.min(MAX_ROWS, Math.max(2, rows));
  });
  const submit = (): void => {
    if (isAnswering.value || text.value.trim() === "") return;
    send(text.value);
    text.value = "";
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Escape") {
      if (isAnswering.value) stop();
      else editing.value = undefined;
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  };
  const onSubmit = (event: Event): void => {
    event.preventDefault();
    if (isAnswering.value) stop();
    else submit();
    box.current?.focus();
  };
  const isChat = mode.value === "chat";
  return (
    <form class="composer" onSubmit={onSubmit}>
      {editing.value && (
        <p class="small">
          Editing a message; sending replaces everything after it.{" "}
          <button type="button" class="quiet" onClick={() => (editing.value = undefined)}>
            Cancel
          </button>
        </p>
      )}
      <div class="write">
        <textarea
          id="composer"
          ref={box}
          rows={2}
          value={text.value}
          aria-label={isChat ? "Message" : "Text to continue"}
          aria-describedby="composer-keys"
          placeholder={isChat ? "Write a message" : "Write the beginning of a text"}
          onInput={({ currentTarget }) => (text.value = currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        <button type="submit" class="main" disabled={!model.value}>
          {isAnswering.value ? "Stop" : "Send"}
        </button>
      </div>
      <div class="sampling">
        <label>
          Temperature{" "}
          <input
            type="number"
            min={0}
            max={2}
            step={0.1}
            value={temperature.value}
            onChange={({ currentTarget }) => (temperature.value = within(currentTarget, 0, 2, temperature.value))}
          />
        </label>
        <label>
          Max. tokens{" "}
          <input
            type="number"
            min={1}
            max={4096}
            step={1}
            value={maxTokens.value}
            onChange={({ currentTarget }) =>
              (maxTokens.value = Math.round(within(currentTarget, 1, 4096, maxTokens.value)))
            }
          />
        </label>
        <span id="composer-keys" class="small keys">
          Enter sends, Shift+Enter adds a line, Escape stops
        </span>
      </div>
    </form>
  );
}

/** Reads a number within its range, and shows it in the field. */
function within(field: HTMLInputElement, least: number, most: number, fallback: number): number {
  const typed = field.valueAsNumber;
  const value = Number.isNaN(typed) ? fallback : Math.min(most, Math.max(least, typed));
  field.value = String(value);
  return value;
}
