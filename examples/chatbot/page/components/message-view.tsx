import { memo } from "preact/compat";
import type { FunctionComponent, JSX } from "preact";
import { editing, isAnswering, regenerate } from "../state/chat.ts";
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
      {isLast && (
        <button type="button" class="quiet" disabled={isAnswering.value} onClick={again}>
          Regenerate
        </button>
      )}
      <button type="button" class="quiet" onClick={() => void navigator.clipboard?.writeText(message.text)}>
        Copy
      </button>
    </p>
  );
}

function again(): void {
  regenerate();
  focusComposer();
}
