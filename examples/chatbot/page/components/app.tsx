// The page: the chat, with the list of conversations and the live view beside it, or over it on a narrow screen.

import type { JSX } from "preact";
import { announcement } from "../state/announcer.ts";
import { connection, live } from "../state/live-connection.ts";
import { hasConversations, hasLive, isCovered, isNarrow, showChat } from "../state/pane.ts";
import { Chat } from "./chat.tsx";
import { ConnectionBanner } from "./connection-banner.tsx";
import { Conversations } from "./conversations.tsx";
import { focusSoon } from "./focus.ts";
import { LivePanel } from "./live-panel.tsx";
import { NoticeBar } from "./notice-bar.tsx";
import { OptionsDialog } from "./options-dialog.tsx";

export function App(): JSX.Element {
  const isReady = connection.value === "open" && live.value !== undefined;
  return (
    <>
      <SkipLink to="#composer">Skip to the message box</SkipLink>
      <SkipLink to="#messages">Skip to the messages</SkipLink>
      <p class="hidden" role="status">
        {announcement.value}
      </p>
      <ConnectionBanner />
      <div class="layout" data-ready={isReady ? "" : undefined} onKeyDown={onKeyDown}>
        {hasConversations.value && <Conversations />}
        <Chat isCovered={isCovered.value} />
        {hasLive.value && <LivePanel />}
      </div>
      <NoticeBar />
      <OptionsDialog />
    </>
  );
}

function SkipLink({ to, children }: { readonly to: string; readonly children: string }): JSX.Element {
  const skip = (event: Event): void => {
    event.preventDefault();
    showChat();
    focusSoon(to);
  };
  return (
    <a class="skip" href={to} onClick={skip}>
      {children}
    </a>
  );
}

/** Escape uncovers the chat on a narrow screen, and returns to the button that covered it. */
function onKeyDown({ key, defaultPrevented }: KeyboardEvent): void {
  if (key !== "Escape" || defaultPrevented || !isNarrow.value || !isCovered.value) return;
  const opener = hasLive.value ? "#open-live" : "#open-conversations";
  showChat();
  focusSoon(opener);
}
