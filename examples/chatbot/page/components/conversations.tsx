import type { JSX } from "preact";
import { conversation, deleteConversation, entries, openConversation, startConversation } from "../state/chat.ts";
import { pane } from "../state/pane.ts";
import { focusComposer } from "./composer.tsx";
import { ThemeButton } from "./theme-button.tsx";

export function Conversations(): JSX.Element {
  return (
    <nav class="conversations" aria-label="Conversations">
      <header>
        <p class="brand">Read-ME chat</p>
        <ThemeButton />
      </header>
      <button
        type="button"
        class="wide"
        onClick={() => {
          startConversation();
          show();
        }}
      >
        New conversation
      </button>
      <ul>
        {entries.value.map(({ id, title }) => (
          <li key={id}>
            <button
              type="button"
              class="open"
              aria-current={id === conversation.value.id ? "true" : undefined}
              onClick={() => {
                openConversation(id);
                show();
              }}
            >
              {title}
            </button>
            <button
              type="button"
              class="quiet"
              aria-label={`Delete ${title}`}
              title="Delete"
              onClick={() => {
                deleteConversation(id);
                focusComposer();
              }}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
      <p class="small">Conversations are stored in this browser only.</p>
    </nav>
  );
}

function show(): void {
  pane.value = "chat";
  focusComposer();
}
