import type { JSX } from "preact";
import { continueAnswer, editing, isAnswering, regenerate } from "../state/chat.ts";
import type { Message } from "../state/messages.ts";
import { CopyButton } from "./copy-button.tsx";
import { focusComposer } from "./focus.ts";
import { Icon } from "./icon.tsx";

export interface ActionsProps {
  readonly message: Message;
  readonly isLast: boolean;
}

/** Ends of answers that can be continued. */
const CONTINUED: readonly Message["ending"][] = ["full", "context", "stopped", "cut"];

export function Actions({ message, isLast }: ActionsProps): JSX.Element {
  if (message.role === "user") {
    return (
      <div class="actions">
        <button
          id={`edit-${message.id}`}
          type="button"
          class="quiet"
          disabled={isAnswering.value}
          onClick={() => (editing.value = message.id)}
        >
          <Icon name="edit" /> Edit
        </button>
        <CopyButton text={message.text} of="your message" />
      </div>
    );
  }
  return (
    <div class="actions">
      {isLast && CONTINUED.includes(message.ending) && message.text !== "" && (
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={goOn}>
          <Icon name="continue" /> Continue
        </button>
      )}
      {isLast && (
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={again}>
          <Icon name="retry" /> Regenerate
        </button>
      )}
      {message.text !== "" && <CopyButton text={message.text} />}
    </div>
  );
}

function goOn(): void {
  continueAnswer();
  focusComposer();
}

function again(): void {
  regenerate();
  focusComposer();
}
