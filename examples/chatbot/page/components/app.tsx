// The page: three panes side by side, or one at a time on a narrow screen.

import type { JSX } from "preact";
import { announcement } from "../state/announcer.ts";
import { Chat } from "./chat.tsx";
import { ConnectionBanner } from "./connection-banner.tsx";
import { Conversations } from "./conversations.tsx";
import { LivePanel } from "./live-panel.tsx";
import { pane, type Pane } from "../state/pane.ts";

const PANES: readonly (readonly [Pane, string])[] = [
  ["conversations", "Conversations"],
  ["chat", "Chat"],
  ["live", "Live"],
];

export function App(): JSX.Element {
  return (
    <>
      <a class="skip" href="#composer" onClick={() => (pane.value = "chat")}>
        Skip to the message box
      </a>
      <p class="hidden" role="status">
        {announcement.value}
      </p>
      <ConnectionBanner />
      <nav class="panes" aria-label="Panes">
        {PANES.map(([name, label]) => (
          <button
            key={name}
            type="button"
            aria-current={pane.value === name ? "true" : undefined}
            onClick={() => (pane.value = name)}
          >
            {label}
          </button>
        ))}
      </nav>
      <main class="layout" data-pane={pane.value}>
        <h1 class="hidden">Read-ME chat</h1>
        <Conversations />
        <Chat />
        <LivePanel />
      </main>
    </>
  );
}
