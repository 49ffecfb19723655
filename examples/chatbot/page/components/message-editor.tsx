import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { editing, isAnswering, resend } from "../state/chat.ts";
import type { Message } from "../state/messages.ts";
import { focusComposer, focusSoon } from "./focus.ts";

/** Edits a message in its place. Sending replaces everything after it. */
export function MessageEditor({ message }: { readonly message: Message }): JSX.Element {
  const text = useSignal(message.text);
  const submit = (): void => {
    if (text.value.trim() === "" || isAnswering.value) return;
    resend(message.id, text.value);
    focusComposer();
  };
  const cancel = (): void => {
    editing.value = "";
    focusSoon(`#edit-${message.id}`);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Escape") {
      event.preventDefault();
      cancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  };
  return (
    <li class="message user editor">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
      >
        <textarea
          aria-label="Edited message"
          rows={Math.min(12, Math.max(2, text.value.split("\n").length))}
          value={text.value}
          ref={focusOnce}
          onInput={({ currentTarget }) => (text.value = currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        <p class="small">Sending replaces everything after this message.</p>
        <div class="row">
          <button type="button" onClick={cancel}>
            Cancel
          </button>
          <button type="submit" class="main" disabled={text.value.trim() === ""}>
            Send again
          </button>
        </div>
      </form>
    </li>
  );
}

function focusOnce(field: HTMLTextAreaElement | null): void {
  if (!field || field === document.activeElement) return;
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
