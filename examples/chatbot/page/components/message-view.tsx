import { memo } from "preact/compat";
import { useSignal } from "@preact/signals";
import type { FunctionComponent, JSX } from "preact";
import { continueAnswer, editing, isAnswering, regenerate } from "../state/chat.ts";
import { expertShares, type Message } from "../state/messages.ts";
import { view } from "../state/settings.ts";
import { focusComposer } from "./composer.tsx";
import { ExpertMark } from "./expert-mark.tsx";
import { Markdown } from "./markdown.tsx";
import { Tokens } from "./tokens.tsx";

export interface MessageProps {
  readonly message: Message;
  /** Whether the answer can be regenerated, which only the last one can. */
  readonly isLast: boolean;
  readonly isDraft?: boolean;
}

function MessageItem({ message, isLast, isDraft = false }: MessageProps): JSX.Element {
  const isUser = message.role === "user";
  return (
    <li class={`message ${message.role}`} aria-busy={isDraft ? "true" : undefined}>
      <p class="who">{isUser ? "You" : (message.model ?? "Model")}</p>
      {isUser ? <p class="plain">{message.text}</p> : <Answer message={message} />}
      {isDraft && message.text === "" && <p class="small">Waiting for the first token …</p>}
      {message.note !== undefined && <p class={`note ${message.ending ?? ""}`}>{message.note}</p>}
      {message.ending === "stopped" && <p class="note">Stopped.</p>}
      {message.ending === "full" && <p class="note">The answer reached the largest number of tokens.</p>}
      {!isUser && !isDraft && <Figures message={message} />}
      {!isDraft && <Actions message={message} isLast={isLast} />}
    </li>
  );
}

/** A message that is rendered once, since complete messages do not change. */
export const MessageView: FunctionComponent<MessageProps> = memo(MessageItem);

function Answer({ message }: { readonly message: Message }): JSX.Element {
  const { text, spans = [], experts = [] } = message;
  const isByExpert = view.value === "experts" && experts.length > 1;
  return isByExpert ? <Tokens text={text} spans={spans} experts={experts} /> : <Markdown text={text} />;
}

/** Shows tokens, speed and experts as text. */
function Figures({ message }: { readonly message: Message }): JSX.Element {
  const { spans = [], experts = [], tokens = 0, durationMs = 0 } = message;
  const shares = experts.length > 1 ? expertShares(spans) : [];
  const rate = durationMs > 0 ? `, ${((tokens * 1000) / durationMs).toFixed(0)} per second` : "";
  return (
    <p class="small figures">
      {tokens} tokens{rate}
      {shares.map(([expert, count]) => (
        <span key={expert} class="share">
          <ExpertMark expert={expert} /> {experts[expert]} {count}
        </span>
      ))}
    </p>
  );
}

function Actions({ message, isLast }: MessageProps): JSX.Element | null {
  if (message.role === "user") {
    const edit = (): void => {
      editing.value = message;
      focusComposer(message.text);
    };
    return (
      <p class="actions">
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={edit}>
          Edit
        </button>
      </p>
    );
  }
  return (
    <p class="actions">
      {isLast && CONTINUED.includes(message.ending) && (
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={goOn}>
          Continue
        </button>
      )}
      {isLast && (
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={again}>
          Regenerate
        </button>
      )}
      <CopyButton text={message.text} />
    </p>
  );
}

/** Ends of answers that can be continued. */
const CONTINUED: readonly Message["ending"][] = ["full", "stopped", "cut"];
const COPIED_MS = 2000;

/** Copies a text, and says whether that worked. */
function CopyButton({ text }: { readonly text: string }): JSX.Element {
  const state = useSignal<"Copy" | "Copied" | "Not copied">("Copy");
  const copy = async (): Promise<void> => {
    const isCopied = await (navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"))).then(
      () => true,
      () => false,
    );
    state.value = isCopied ? "Copied" : "Not copied";
    setTimeout(() => (state.value = "Copy"), COPIED_MS);
  };
  return (
    <button type="button" class="quiet" aria-live="polite" onClick={() => void copy()}>
      {state.value}
    </button>
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
