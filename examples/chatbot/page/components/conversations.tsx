// The list of conversations, with a search and what can be done with each.

import { useSignal, type Signal } from "@preact/signals";
import type { JSX } from "preact";
import type { ConversationEntry } from "../state/conversation-store.ts";
import {
  conversation,
  deleteConversation,
  exportConversations,
  found,
  importConversations,
  openConversation,
  query,
  renameConversation,
  startConversation,
} from "../state/conversations.ts";
import { isNarrow, showChat, toggleConversations } from "../state/pane.ts";
import { chooseFiles } from "./choose-files.ts";
import { focusComposer, focusSoon } from "./focus.ts";
import { Icon } from "./icon.tsx";
import { Menu } from "./menu.tsx";
import { ThemeButton } from "./theme-button.tsx";

export function Conversations(): JSX.Element {
  /** Id of the conversation whose title is being changed. */
  const renaming = useSignal("");
  const entries = found.value;
  return (
    <nav class="conversations" aria-label="Conversations">
      <header>
        <p class="brand">Read-ME chat</p>
        <ThemeButton />
        {isNarrow.value && (
          <button type="button" class="quiet square" aria-label="Close conversations" onClick={close}>
            <Icon name="close" />
          </button>
        )}
      </header>
      <button
        type="button"
        class="start"
        onClick={() => {
          startConversation();
          showChat();
          focusComposer();
        }}
      >
        <Icon name="new" /> New conversation
      </button>
      <label class="search">
        <Icon name="search" />
        <input
          type="search"
          aria-label="Search conversations"
          placeholder="Search"
          value={query.value}
          onInput={({ currentTarget }) => (query.value = currentTarget.value)}
        />
      </label>
      {entries.length === 0 && (
        <p class="small none">{query.value.trim() === "" ? "No conversations yet." : "Nothing found."}</p>
      )}
      <ul>
        {entries.map((entry) =>
          renaming.value === entry.id ? (
            <Rename key={entry.id} entry={entry} renaming={renaming} />
          ) : (
            <Row key={entry.id} entry={entry} renaming={renaming} />
          ),
        )}
      </ul>
      <footer>
        <p class="small">Stored in this browser only.</p>
        <Menu
          label="Export or import conversations"
          items={[
            { label: "Export all", run: () => void exportConversations("json") },
            { label: "Import …", run: () => chooseFiles(".json", ([file]) => file && void importConversations(file)) },
          ]}
        />
      </footer>
    </nav>
  );
}

interface RowProps {
  readonly entry: ConversationEntry;
  readonly renaming: Signal<string>;
}

function Row({ entry: { id, title }, renaming }: RowProps): JSX.Element {
  const isOpen = id === conversation.value.id;
  return (
    <li class={isOpen ? "current" : ""}>
      <button
        type="button"
        class="open"
        title={title}
        aria-current={isOpen ? "true" : undefined}
        onClick={() => {
          openConversation(id);
          // The message box of a phone would open its keyboard.
          if (isNarrow.value) focusSoon("#messages");
          else focusComposer();
          showChat();
        }}
      >
        {title}
      </button>
      <Menu
        label={`Actions on ${title}`}
        items={[
          { label: "Rename", run: () => (renaming.value = id) },
          { label: "Export as Markdown", run: () => void exportConversations("md", id) },
          { label: "Export as JSON", run: () => void exportConversations("json", id) },
          { label: "Delete", run: () => remove(id) },
        ]}
      />
    </li>
  );
}

function Rename({ entry: { id, title }, renaming }: RowProps): JSX.Element {
  const end = (field: HTMLInputElement, isKept: boolean): void => {
    if (renaming.value !== id) return;
    if (isKept) renameConversation(id, field.value);
    renaming.value = "";
    focusSoon(".conversations .open[aria-current], .conversations .start");
  };
  return (
    <li>
      <input
        class="rename"
        aria-label={`Title of ${title}`}
        defaultValue={title}
        maxLength={120}
        ref={selectOnce}
        onBlur={({ currentTarget }) => end(currentTarget, true)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" && event.key !== "Escape") return;
          event.preventDefault();
          end(event.currentTarget, event.key === "Enter");
        }}
      />
    </li>
  );
}

function selectOnce(field: HTMLInputElement | null): void {
  if (field !== document.activeElement) field?.select();
}

function remove(id: string): void {
  deleteConversation(id);
  focusSoon(".notice button");
}

function close(): void {
  toggleConversations();
  focusSoon("#open-conversations");
}
