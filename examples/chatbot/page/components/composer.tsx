import { useSignalEffect } from "@preact/signals";
import type { JSX } from "preact";
import { useRef } from "preact/hooks";
import { attach, attachmentProblem, attachments, removeAttachment } from "../state/attachments.ts";
import { composed, isAnswering, send, stop } from "../state/chat.ts";
import { conversation } from "../state/conversations.ts";
import { documents, model } from "../state/live-connection.ts";
import { fullness } from "../state/room.ts";
import { asksDocuments, mode } from "../state/settings.ts";
import { chooseFiles } from "./choose-files.ts";
import { ExpertChooser } from "./expert-chooser.tsx";
import { focusComposer } from "./focus.ts";
import { Icon } from "./icon.tsx";

const MAX_ROWS = 10;

export function Composer(): JSX.Element {
  const box = useRef<HTMLTextAreaElement>(null);
  useSignalEffect(() => {
    const rows = composed.value.split("\n").length;
    if (box.current) box.current.rows = Math.min(MAX_ROWS, rows);
  });
  const canSend = composed.value.trim() !== "" || attachments.value.length > 0;
  const submit = (): void => {
    if (isAnswering.value || !canSend || !model.value) return;
    send(composed.value);
    composed.value = "";
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Escape" && isAnswering.value) {
      event.preventDefault();
      stop();
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
      <ContextNote />
      <div class="box">
        <Chips />
        <textarea
          id="composer"
          ref={box}
          rows={1}
          value={composed.value}
          aria-label={isChat ? "Message" : "Text to continue"}
          aria-describedby="composer-keys"
          placeholder={isChat ? "Write a message" : "Write the beginning of a text"}
          onInput={({ currentTarget }) => (composed.value = currentTarget.value)}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        <div class="tools">
          <button
            type="button"
            class="quiet square"
            aria-label="Attach text files"
            title="Attach text files"
            onClick={() => chooseFiles("", (files) => void attach(files).then(focusComposer))}
          >
            <Icon name="attach" />
          </button>
          {isChat && documents.value !== undefined && (
            <label class="check" title={`Search ${documents.value} for each question`}>
              <input
                type="checkbox"
                checked={asksDocuments.value}
                onChange={({ currentTarget }) => (asksDocuments.value = currentTarget.checked)}
              />
              Ask these documents
            </label>
          )}
          <ExpertChooser />
          <SendButton isDisabled={!isAnswering.value && (!canSend || !model.value)} />
        </div>
      </div>
      <p id="composer-keys" class="small keys">
        Enter sends, Shift+Enter adds a line, Escape stops
      </p>
    </form>
  );
}

/** Attaches files of the clipboard; texts are pasted as usual. */
function onPaste(event: ClipboardEvent): void {
  const files = event.clipboardData?.files ?? [];
  if (files.length === 0) return;
  event.preventDefault();
  void attach(files);
}

/** One button, so that it keeps the focus when it changes. */
function SendButton({ isDisabled }: { readonly isDisabled: boolean }): JSX.Element {
  const name = isAnswering.value ? "Stop" : "Send";
  return (
    <button type="submit" class="main" disabled={isDisabled} aria-label={name} title={name}>
      <Icon name={isAnswering.value ? "stop" : "send"} />
    </button>
  );
}

/** The chosen files, and why another one was not taken. */
function Chips(): JSX.Element {
  return (
    <>
      {attachments.value.length > 0 && (
        <ul class="chips" aria-label="Attachments">
          {attachments.value.map((file) => (
            <li key={file.name}>
              <Icon name="file" />
              <span class="name">{file.name}</span>
              <span class="small">{file.tokens.toLocaleString("en")} tokens</span>
              <button
                type="button"
                class="quiet square"
                aria-label={`Remove ${file.name}`}
                onClick={() => {
                  removeAttachment(file);
                  focusComposer();
                }}
              >
                <Icon name="close" />
              </button>
            </li>
          ))}
        </ul>
      )}
      <p class="note problem" role="alert">
        {attachmentProblem.value}
      </p>
    </>
  );
}

/** Says that the conversation is about to exceed the context. */
function ContextNote(): JSX.Element | null {
  const last = conversation.value.messages.findLast(({ contextTokens }) => contextTokens !== undefined);
  const note = model.value && mode.value === "chat" && fullness(last?.contextTokens ?? 0, model.value.contextTokens);
  return note ? <p class="small">{note}</p> : null;
}
