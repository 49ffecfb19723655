// The messages of a conversation. Only a window of them is rendered, so that long conversations stay fast.

import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { draft } from "../state/chat.ts";
import { conversation } from "../state/conversations.ts";
import { authorOf, authorsOf } from "../state/messages.ts";
import { MessageView } from "./message-view.tsx";
import { openOptions } from "./options-dialog.tsx";
import { Welcome } from "./welcome.tsx";

const WINDOW = 30;
const STEP = 20;
/** Distance from the end within which the list follows a streaming answer. */
const NEAR_PX = 80;

export function MessageList(): JSX.Element {
  const { id, messages, system = "" } = conversation.value;
  const writing = draft.value;
  const authors = authorsOf(writing ? [...messages, writing] : messages);
  /** Number of messages after the window; 0 follows the end. */
  const after = useSignal(0);
  const scroller = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const last = useRef(id);
  if (last.current !== id) {
    last.current = id;
    after.value = 0;
    isAtEnd.current = true;
  }
  const end = Math.max(Math.min(WINDOW, messages.length), messages.length - after.value);
  const start = Math.max(0, end - WINDOW);
  useLayoutEffect(() => {
    const box = scroller.current;
    if (box && isAtEnd.current && after.value === 0) box.scrollTop = box.scrollHeight;
  });
  const onScroll = ({ currentTarget: box }: { readonly currentTarget: HTMLDivElement }): void => {
    isAtEnd.current = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_PX;
  };
  return (
    <div
      id="messages"
      class="messages"
      ref={scroller}
      onScroll={onScroll}
      tabIndex={0}
      role="region"
      aria-label="Messages"
    >
      {messages.length === 0 && !writing && <Welcome />}
      {system.trim() !== "" && (
        <button type="button" class="quiet system" title="Change the system prompt" onClick={openOptions}>
          System prompt: {system}
        </button>
      )}
      {start > 0 && (
        <button type="button" class="wide" onClick={() => (after.value = messages.length - end + STEP)}>
          {`Earlier messages (${start})`}
        </button>
      )}
      <ol>
        {messages.slice(start, end).map((message, index) => (
          <MessageView
            key={message.id}
            message={message}
            author={authors.indexOf(authorOf(message))}
            isLast={start + index === messages.length - 1}
          />
        ))}
        {writing && after.value === 0 && (
          <MessageView
            key={writing.id}
            message={writing}
            author={authors.indexOf(authorOf(writing))}
            isLast={true}
            isDraft={true}
          />
        )}
      </ol>
      {end < messages.length && (
        <button type="button" class="wide" onClick={() => (after.value = Math.max(0, messages.length - end - STEP))}>
          {`Later messages (${messages.length - end})`}
        </button>
      )}
    </div>
  );
}
