// The actions on the open conversation: asking, stopping, editing, continuing.

import { computed, effect, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { announce } from "./announcer.ts";
import { ConnectionLost, searchDocuments } from "./api.ts";
import { ask, type ReadingProgress } from "./ask.ts";
import { attachments, clearAttachments } from "./attachments.ts";
import { conversation, current, keep } from "./conversations.ts";
import { documents, expert, model } from "./live-connection.ts";
import { newId, type Attachment, type Ending, type Message } from "./messages.ts";
import { notice } from "./notice.ts";
import { ownRequests } from "./own-requests.ts";
import { madeUpTurn } from "./prompt.ts";
import { asksDocuments, maxTokens, mode, temperature } from "./settings.ts";
import { WrittenAnswer } from "./written-answer.ts";

/** Interval of updates while an answer streams. */
const FLUSH_MS = 50;
/** Most messages of a conversation; older ones are dropped. */
const MAX_MESSAGES = 500;

/** The answer that is streaming. */
export const draft: Signal<Message | undefined> = signal<Message | undefined>(undefined);
/** Progress of reading its prompt, if the prompt is long, until the first piece. */
export const reading: Signal<ReadingProgress | undefined> = signal<ReadingProgress | undefined>(undefined);
/** The text in the message box. */
export const composed: Signal<string> = signal("");
/** Id of the message that is being edited. */
export const editing: Signal<string> = signal("");
export const isAnswering: ReadonlySignal<boolean> = computed(() => draft.value !== undefined);

let stopping: AbortController | undefined;
/** Id of the conversation that is being answered. */
let answered = "";

// Opening another conversation ends the answer and the edit of this one.
effect(() => {
  const { id } = conversation.value;
  if (answered !== "" && answered !== id) stop();
  editing.value = "";
});

/** Sends a message with the chosen attachments. */
export function send(text: string): void {
  if (isAnswering.value || !model.value) return;
  const files = attachments.value;
  if (text.trim() === "" && files.length === 0) return;
  clearAttachments();
  void answer([...conversation.value.messages, userMessage(text, files)]);
}

/** Replaces a message and everything after it. */
export function resend(id: string, text: string): void {
  const { messages } = conversation.value;
  const at = messages.findIndex((message) => message.id === id);
  if (at < 0 || text.trim() === "" || isAnswering.value) return;
  editing.value = "";
  void answer([...messages.slice(0, at), userMessage(text, messages[at]?.attachments ?? [])]);
}

function userMessage(text: string, files: readonly Attachment[]): Message {
  return { id: newId(), role: "user", text, ...(files.length > 0 ? { attachments: files } : {}) };
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

/** @param begun - answer that is continued */
async function answer(messages: readonly Message[], begun?: Message): Promise<void> {
  const chosen = model.value;
  if (!chosen) return;
  [notice.value, reading.value] = [undefined, undefined];
  const own = (stopping = new AbortController());
  const { id, system } = conversation.value;
  answered = id;
  keep({ ...conversation.value, mode: mode.value, messages });
  const wanted = expert.value;
  const written = new WrittenAnswer({
    id: begun?.id ?? newId(),
    role: "assistant",
    text: "",
    ...withoutEnding(begun),
    experts: chosen.experts,
    isFormatted: mode.value === "chat" && chosen.hasChatTemplate,
    model: `${chosen.title} · ${chosen.precision}`,
    ...(wanted === undefined ? {} : { expert: wanted }),
  });
  const [isChat, endsAtTurn] = [mode.value === "chat", mode.value === "chat" && !chosen.hasChatTemplate];
  const show = frames(() => {
    if (draft.value?.id === written.id) draft.value = written.message();
  });
  draft.value = written.message();
  announce("Answering");
  const finish = (ending: Ending, more: Pick<Message, "note" | "contextTokens"> = {}): void => {
    show.stop();
    if (draft.value?.id === written.id) draft.value = undefined;
    if (stopping === own) [answered, reading.value] = ["", undefined];
    ownRequests.ended();
    const message: Message = { ...written.message(), ending, ...more };
    const now = current(id);
    // The conversation may have been deleted meanwhile.
    if (now) keep({ ...now, messages: [...now.messages, message].slice(-MAX_MESSAGES) });
    announce(ENDINGS[ending](message));
  };
  ownRequests.sent();
  const searches = begun ? begun.sources !== undefined : isChat && asksDocuments.value && documents.value !== undefined;
  try {
    const asked = searches ? await withSources(messages, written, own) : messages;
    const { leftOut, ending, contextTokens } = await ask({
      model: chosen,
      expert: wanted,
      mode: mode.value,
      system: isChat ? system : undefined,
      messages: begun ? [...asked, begun] : asked,
      temperature: temperature.value,
      maxTokens: maxTokens.value,
      signal: own.signal,
      onStarted: ownRequests.started,
      onReading: (progress) => {
        if (stopping === own) reading.value = progress;
      },
      onPiece: (piece) => {
        written.add(piece);
        const end = endsAtTurn ? madeUpTurn(written.text) : -1;
        if (end >= 0) {
          written.cutAt(end);
          own.abort("turn");
        }
        show.soon();
      },
    });
    const note = leftOut > 0 ? { note: leftOutNote(leftOut) } : {};
    finish(ending, { ...note, contextTokens });
  } catch (error) {
    if (own.signal.reason === "turn") finish("done");
    else if (own.signal.aborted) finish("stopped");
    else if (error instanceof ConnectionLost) finish("cut", { note: "The connection to the server was lost." });
    else finish("failed", { note: error instanceof Error ? error.message : String(error) });
  }
}

/** Puts pieces of the documents into the last question, which `written` cites. */
async function withSources(
  messages: readonly Message[],
  written: WrittenAnswer,
  { signal: ending }: AbortController,
): Promise<readonly Message[]> {
  const question = messages.at(-1);
  if (!question || question.text.trim() === "") return messages;
  const { sources, prompt } = await searchDocuments(question.text, ending);
  written.cite(sources);
  return [...messages.slice(0, -1), { ...question, text: prompt }];
}

function leftOutNote(leftOut: number): string {
  const words = leftOut === 1 ? "The oldest message" : `The ${leftOut} oldest messages`;
  return `${words} no longer fit into the model's context: this answer does not know them.`;
}

/** Drops what a continued answer gets anew. */
function withoutEnding(begun: Message | undefined): Partial<Message> {
  const { ending: _ending, note: _note, expert: _expert, ...rest } = begun ?? {};
  return rest;
}

/** Calls a function soon, at most once in an interval that people can follow. */
function frames(show: () => void): { readonly soon: () => void; readonly stop: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return {
    soon: () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        show();
      }, FLUSH_MS);
    },
    stop: () => clearTimeout(timer),
  };
}

const ENDINGS: Readonly<Record<Ending, (answer: Message) => string>> = {
  done: ({ text }) => `Answer: ${text.slice(0, 2000)}`,
  full: ({ text }) => `Answer, cut at its largest number of tokens: ${text.slice(0, 2000)}`,
  context: ({ text }) => `Answer, cut at the end of the model's context: ${text.slice(0, 2000)}`,
  stopped: () => "Stopped",
  cut: () => "The connection to the server was lost; the answer is incomplete",
  failed: ({ note }) => `No answer: ${note}`,
};
