import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { attach } from "../state/attachments.ts";
import { model } from "../state/live-connection.ts";
import { hasConversations, hasLive, toggleConversations, toggleLive } from "../state/pane.ts";
import { Composer } from "./composer.tsx";
import { isByExpert, writesMarkdown } from "./answer-form.ts";
import { focusComposer, focusSoon } from "./focus.ts";
import { Icon } from "./icon.tsx";
import { Legend } from "./legend.tsx";
import { MessageList } from "./message-list.tsx";
import { ModelChooser } from "./model-chooser.tsx";
import { openOptions } from "./options-dialog.tsx";

/** @param isCovered - whether something else covers the chat, which then takes no input */
export function Chat({ isCovered }: { readonly isCovered: boolean }): JSX.Element {
  const isDropping = useSignal(false);
  const drag = (event: DragEvent): void => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    isDropping.value = event.type !== "dragleave" && event.type !== "drop";
    if (event.type === "drop") void attach(event.dataTransfer.files).then(focusComposer);
  };
  const experts = model.value?.experts ?? [];
  return (
    <main
      class={`chat${isDropping.value ? " dropping" : ""}`}
      inert={isCovered}
      onDragEnter={drag}
      onDragOver={drag}
      onDragLeave={drag}
      onDrop={drag}
    >
      <h1 class="hidden">Read-ME chat</h1>
      <header>
        <button
          id="open-conversations"
          type="button"
          class="quiet square"
          aria-label="Conversations"
          title="Conversations"
          aria-expanded={hasConversations.value}
          onClick={() => {
            toggleConversations();
            if (hasConversations.value) focusSoon(".conversations .start");
          }}
        >
          <Icon name="menu" />
        </button>
        <ModelChooser />
        <button type="button" class="quiet labelled" aria-haspopup="dialog" title="Options" onClick={openOptions}>
          <Icon name="settings" />
          <span>Options</span>
        </button>
        <button
          id="open-live"
          type="button"
          class="quiet labelled"
          title="Live view"
          aria-expanded={hasLive.value}
          onClick={() => {
            toggleLive();
            if (hasLive.value) focusSoon(".live");
          }}
        >
          <Icon name="live" />
          <span>Live view</span>
        </button>
      </header>
      {isByExpert(experts, writesMarkdown.value) && <Legend experts={experts} />}
      <MessageList />
      <Composer />
      {isDropping.value && <p class="drop">Drop text files here</p>}
    </main>
  );
}
