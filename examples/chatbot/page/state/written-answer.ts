// An answer while it is written: pieces of the stream become one message.

import type { Message, Span } from "./messages.ts";

/** A part of a stream. */
export interface Piece {
  readonly text: string;
  readonly reasoning: string;
  readonly tokens: number;
  /** Expert of the piece's last token; -1 for none. */
  readonly expert: number;
}

export class WrittenAnswer {
  #base: Message;
  readonly #now: () => number;
  readonly #startMs: number;
  readonly #spans: Span[];
  #text: string;
  #reasoning: string;
  #reasoningMs: number;
  #tokens: number;

  /** @param begun - the message's id and author, and what has been written of it before */
  constructor(begun: Message, now: () => number = () => performance.now()) {
    this.#base = begun;
    this.#now = now;
    this.#startMs = now();
    this.#spans = [...(begun.spans ?? [])];
    this.#text = begun.text;
    this.#reasoning = begun.reasoning ?? "";
    this.#reasoningMs = begun.reasoningMs ?? 0;
    this.#tokens = begun.tokens ?? 0;
  }

  get id(): string {
    return this.#base.id;
  }

  get text(): string {
    return this.#text;
  }

  add({ text, reasoning, tokens, expert }: Piece): void {
    this.#tokens += tokens;
    this.#text += text;
    if (text !== "") this.#spans.push([text.length, expert]);
    if (reasoning === "") return;
    this.#reasoning += reasoning;
    this.#reasoningMs = (this.#base.reasoningMs ?? 0) + this.#now() - this.#startMs;
  }

  /** Names what the answer is made from. */
  cite(sources: NonNullable<Message["sources"]>): void {
    this.#base = { ...this.#base, sources };
  }

  /** Removes the text from a position on. */
  cutAt(end: number): void {
    let rest = this.#text.length - end;
    this.#text = this.#text.slice(0, end);
    while (rest > 0) {
      const [length, expert] = this.#spans.pop() ?? [rest, -1];
      if (length > rest) this.#spans.push([length - rest, expert]);
      rest -= length;
    }
  }

  message(): Message {
    const reasoning = this.#reasoning === "" ? {} : { reasoning: this.#reasoning, reasoningMs: this.#reasoningMs };
    return {
      ...this.#base,
      ...reasoning,
      text: this.#text,
      spans: [...this.#spans],
      tokens: this.#tokens,
      durationMs: (this.#base.durationMs ?? 0) + this.#now() - this.#startMs,
    };
  }
}
