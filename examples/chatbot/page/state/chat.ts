// The current conversation and the actions on it.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { announce } from "./announcer.ts";
import { ask, ConnectionLost, madeUpTurn } from "./ask.ts";
import {
  listConversations,
  loadConversation,
  removeConversation,
  saveConversation,
  type ConversationEntry,
} from "./conversation-store.ts";
import { model } from "./live-connection.ts";
import {
  newConversation,
  newId,
  titleOf,
  type Conversation,
  type Ending,
  type Message,
  type Span,
} from "./messages.ts";
import { maxTokens, mode, temperature } from "./settings.ts";

type Timer = ReturnType<typeof setTimeout>;

/** Interval of updates while an answer streams. */
const FLUSH_MS = 50;
/** Most messages of a conversation; older ones are dropped. */
const MAX_MESSAGES = 500;

export const entries: Signal<readonly ConversationEntry[]> = signal(listConversations(localStorage));
export const conversation: Signal<Conversation> = signal(
  loadConversation(localStorage, entries.value[0]?.id ?? "") ?? newConversation(mode.value),
);
/** The answer that is streaming. */
export const draft: Signal<Message | undefined> = signal<Message | undefined>(undefined);
/** Name of the streaming answer's sequence in events. */
export const ownRequestId: Signal<string> = signal("");
/** The message that is being edited. */
export const editing: Signal<Message | undefined> = signal<Message | undefined>(undefined);
export const isAnswering: ReadonlySignal<boolean> = computed(() => draft.value !== undefined);

let stopping: AbortController | undefined;

/** Sends a message; replaces the message that is being edited, if there is one. */
export function send(text: string): void {
  if (text.trim() === "" || isAnswering.value || !model.value) return;
  const { messages } = conversation.value;
  const edited = messages.findIndex(({ id }) => id === editing.value?.id);
  editing.value = undefined;
  const before = edited < 0 ? messages : messages.slice(0, edited);
  void answer([...before, { id: newId(), role: "user", text }]);
}

export function stop(): void {
  stopping?.abort();
}

/** Requests another answer to the user's last message. */
export function regenerate(): void {
  const { messages } = conversation.value;
  const asked = messages.findLastIndex(({ role }) => role === "user");
  if (asked >= 0 && !isAnswering.value) void answer(messages.slice(0, asked + 1));
}

/** Continues the last answer, which was cut. */
export function continueAnswer(): void {
  const { messages } = conversation.value;
  const begun = messages.at(-1);
  if (begun?.role === "assistant" && !isAnswering.value) void answer(messages.slice(0, -1), begun);
}

export function startConversation(): void {
  stop();
  editing.value = undefined;
  if (conversation.value.messages.length > 0) conversation.value = newConversation(mode.value);
}

export function openConversation(id: string): void {
  const found = loadConversation(localStorage, id);
  if (!found || found.id === conversation.value.id) return;
  stop();
  editing.value = undefined;
  conversation.value = found;
  mode.value = found.mode;
}

export function deleteConversation(id: string): void {
  removeConversation(localStorage, id);
  entries.value = listConversations(localStorage);
  if (conversation.value.id !== id) return;
  stop();
  conversation.value = newConversation(mode.value);
}

/** @param begun - answer that is continued */
async function answer(messages: readonly Message[], begun?: Message): Promise<void> {
  const chosen = model.value;
  if (!chosen) return;
  const own = (stopping = new AbortController());
  const { id } = conversation.value;
  keep({ ...conversation.value, mode: mode.value, messages });
  const startMs = performance.now();
  const base: Message = {
    id: begun?.id ?? newId(),
    role: "assistant",
    text: "",
    spans: [],
    experts: chosen.experts,
    model: `${chosen.title} · ${chosen.precision}`,
  };
  let [text, tokens, timer] = [begun?.text ?? "", begun?.tokens ?? 0, undefined as Timer | undefined];
  const spans: Span[] = [...(begun?.spans ?? [])];
  const written = (): Message => ({
    ...base,
    text,
    spans: [...spans],
    tokens,
    durationMs: (begun?.durationMs ?? 0) + performance.now() - startMs,
  });
  draft.value = written();
  announce("Answering");
  const finish = (ending: Ending, note?: string): void => {
    clearTimeout(timer);
    if (draft.value?.id === base.id) draft.value = undefined;
    ownRequestId.value = "";
    const message = { ...written(), ending, ...(note === undefined ? {} : { note }) };
    const current = conversation.value.id === id ? conversation.value : loadConversation(localStorage, id);
    // The conversation may have been deleted meanwhile.
    if (current) keep({ ...current, messages: [...current.messages, message].slice(-MAX_MESSAGES) });
    announce(ENDINGS[ending](text, note));
  };
  try {
    const { leftOut, isFull } = await ask({
      model: chosen,
      mode: mode.value,
      messages: begun ? [...messages, begun] : messages,
      temperature: temperature.value,
      maxTokens: maxTokens.value,
      signal: own.signal,
      onStarted: (requestId) => (ownRequestId.value = requestId),
      onPiece: (piece, numTokens, expert) => {
        text += piece;
        tokens += numTokens;
        if (piece !== "") spans.push([piece.length, expert]);
        const end = mode.value === "chat" && !chosen.hasChatTemplate ? madeUpTurn(text) : -1;
        if (end >= 0) {
          cutSpans(spans, text.length - end);
          text = text.slice(0, end);
          own.abort("turn");
        }
        timer ??= setTimeout(() => {
          timer = undefined;
          if (draft.value?.id === base.id) draft.value = written();
        }, FLUSH_MS);
      },
    });
    const note = leftOut > 0 ? `${leftOut} older messages did not fit into the model's context.` : undefined;
    finish(isFull ? "full" : "done", note);
  } catch (error) {
    if (own.signal.reason === "turn") finish("done");
    else if (own.signal.aborted) finish("stopped");
    else if (error instanceof ConnectionLost) finish("cut", "The connection to the server was lost.");
    else finish("failed", error instanceof Error ? error.message : String(error));
  }
}

const ENDINGS: Readonly<Record<Ending, (text: string, note?: string) => string>> = {
  done: (text) => `Answer: ${text.slice(0, 2000)}`,
  full: (text) => `Answer, cut at its largest number of tokens: ${text.slice(0, 2000)}`,
  stopped: () => "Stopped",
  cut: () => "The connection to the server was lost; the answer is incomplete",
  failed: (_, note) => `No answer: ${note}`,
};

function keep(changed: Conversation): void {
  const titled = { ...changed, title: titleOf(changed.messages), updatedMs: Date.now() };
  if (conversation.value.id === titled.id) conversation.value = titled;
  if (!saveConversation(localStorage, titled)) announce("The browser has no room for this conversation");
  entries.value = listConversations(localStorage);
}

/** Removes characters from the end. */
function cutSpans(spans: Span[], characters: number): void {
  let rest = characters;
  while (rest > 0) {
    const [length, expert] = spans.pop() ?? [rest, -1];
    if (length > rest) spans.push([length - rest, expert]);
    rest -= length;
  }
}
