import { memo } from "preact/compat";
import type { FunctionComponent, JSX } from "preact";
import { editing, reading } from "../state/chat.ts";
import { authorOf, expertShares, type Message } from "../state/messages.ts";
import { isByExpert } from "./answer-form.ts";
import { ExpertMark } from "./expert-mark.tsx";
import { Icon } from "./icon.tsx";
import { Markdown } from "./markdown.tsx";
import { Actions } from "./message-actions.tsx";
import { MessageEditor } from "./message-editor.tsx";
import { Reasoning } from "./reasoning.tsx";
import { Tokens } from "./tokens.tsx";

export interface MessageProps {
  readonly message: Message;
  /** Position of the answer's author among those of the conversation. */
  readonly author: number;
  /** Whether the answer can be regenerated, which only the last one can. */
  readonly isLast: boolean;
  readonly isDraft?: boolean;
}

function MessageItem(props: MessageProps): JSX.Element {
  return props.message.role === "user" ? <Question {...props} /> : <Answer {...props} />;
}

/** A message that is rendered once, since complete messages do not change. */
export const MessageView: FunctionComponent<MessageProps> = memo(MessageItem);

function Question({ message }: MessageProps): JSX.Element {
  const { id, text, attachments = [] } = message;
  if (editing.value === id) return <MessageEditor message={message} />;
  return (
    <li class="message user">
      <h2 class="hidden">You</h2>
      {attachments.length > 0 && (
        <ul class="chips" aria-label="Attachments">
          {attachments.map(({ name, tokens }, index) => (
            <li key={index}>
              <Icon name="file" />
              <span class="name">{name}</span>
              <span class="small">{tokens.toLocaleString("en")} tokens</span>
            </li>
          ))}
        </ul>
      )}
      {text !== "" && <p class="plain">{text}</p>}
      <Actions message={message} isLast={false} />
    </li>
  );
}

/** Number of colours of authors. */
const NUM_AUTHORS = 6;

function Answer({ message, author, isLast, isDraft = false }: MessageProps): JSX.Element {
  const { text, reasoning = "", ending } = message;
  return (
    <li class="message assistant" aria-busy={isDraft ? "true" : undefined}>
      <h2 class={`who author-${author % NUM_AUTHORS}`}>{authorOf(message)}</h2>
      {reasoning !== "" && <Reasoning message={message} isRunning={isDraft && text === ""} />}
      <AnswerText message={message} />
      {isDraft && text === "" && reasoning === "" && (
        <p class="small waiting">
          <span>{readingText()} …</span>
        </p>
      )}
      <Sources {...message} />
      {message.note !== undefined && <p class={`note ${ending ?? ""}`}>{message.note}</p>}
      {ending !== undefined && ENDINGS[ending] !== undefined && <p class="note">{ENDINGS[ending]}</p>}
      {!isDraft && <Actions message={message} isLast={isLast} />}
      {!isDraft && (message.tokens ?? 0) > 0 && <Figures message={message} />}
    </li>
  );
}

/** Lists what the answer was made from, by the numbers that the model sees. */
function Sources({ sources = [] }: Pick<Message, "sources">): JSX.Element | null {
  if (sources.length === 0) return null;
  return (
    <section class="sources" aria-label="Sources">
      <p class="small">Sources</p>
      <ol>
        {sources.map(({ file, title, score }, index) => (
          <li key={index}>
            {title || file} <span class="small">{`${file}, ${score.toFixed(2)}`}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function readingText(): string {
  const { readTokens, promptTokens } = reading.value ?? {};
  if (readTokens === undefined || promptTokens === undefined) return "Reading the conversation";
  return `Reading ${readTokens.toLocaleString("en")} of ${promptTokens.toLocaleString("en")} tokens`;
}

const ENDINGS: Readonly<Partial<Record<NonNullable<Message["ending"]>, string>>> = {
  stopped: "Stopped.",
  full: "The answer reached the largest number of tokens.",
  context: "The answer reached the end of the model's context. “Continue” leaves out the oldest messages.",
};

function AnswerText({ message }: { readonly message: Message }): JSX.Element {
  const { text, spans = [], experts = [], isFormatted = true } = message;
  if (isByExpert(experts, isFormatted)) return <Tokens text={text} spans={spans} experts={experts} />;
  return isFormatted ? <Markdown text={text} /> : <p class="markdown plain">{text}</p>;
}

/** Shows tokens, speed and experts as text. */
function Figures({ message }: { readonly message: Message }): JSX.Element {
  const { spans = [], experts = [], tokens = 0, durationMs = 0 } = message;
  const shares = experts.length > 1 ? expertShares(spans) : [];
  const rate = durationMs > 0 ? `, ${((tokens * 1000) / durationMs).toFixed(0)} per second` : "";
  return (
    <p class="small figures">
      {tokens.toLocaleString("en")} tokens{rate}
      {shares.map(([expert, count]) => (
        <span key={expert} class="share">
          <ExpertMark expert={expert} /> {experts[expert]} {count}
        </span>
      ))}
    </p>
  );
}
