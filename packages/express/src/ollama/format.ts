// Answers of `/api/chat` and `/api/generate`: one object, or one for each piece, each on a line of its own.

import type { AnswerFormat, AnswerPart, Outcome } from "../api/answer-format.ts";
import type { ChatChoice } from "../api/chat-shape.ts";
import type { CompletionChoice } from "../api/completions.ts";
import type { ApiError } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";
import { joinToolCalls, parsedArguments, type WholeToolCall } from "../tools/tool-calls.ts";

/** Texts of a piece, or of a whole answer. */
interface Texts {
  readonly content: string;
  readonly thinking?: string;
  readonly calls?: readonly object[];
}

/** Writes the texts of an answer. */
export type WriteTexts = (texts: Texts) => object;

/** Texts as a message of a chat. */
export const asMessage: WriteTexts = ({ content, thinking, calls }) => ({
  message: {
    role: "assistant",
    content,
    ...(thinking ? { thinking } : {}),
    ...(calls && calls.length > 0 ? { tool_calls: calls } : {}),
  },
});

/** Texts as the continuation of a prompt. */
export const asResponse: WriteTexts = ({ content, thinking }) => ({
  response: content,
  ...(thinking ? { thinking } : {}),
});

/** Collects an answer, and makes the lines that it is streamed as. */
export class OllamaFormat implements AnswerFormat<ChatChoice | CompletionChoice> {
  readonly framing = "lines" as const;
  readonly #model: string;
  readonly #write: WriteTexts;
  readonly #now: () => Date;
  readonly #calls: WholeToolCall[] = [];
  #content = "";
  #thinking = "";
  #reason = "stop";

  /** @param now - clock of `created_at` */
  constructor(model: string, write: WriteTexts, now: () => Date) {
    this.#model = model;
    this.#write = write;
    this.#now = now;
  }

  add({ choices }: AnswerPart<ChatChoice | CompletionChoice>): readonly SseEvent[] {
    return choices.flatMap((choice) => {
      const delta: ChatChoice["delta"] = "delta" in choice ? choice.delta : { content: choice.text };
      const { content = "", reasoning_content: thinking = "", tool_calls: calls = [] } = delta;
      this.#content += content;
      this.#thinking += thinking;
      joinToolCalls(calls, this.#calls);
      if (choice.finish_reason !== null) this.#reason = choice.finish_reason === "length" ? "length" : "stop";
      return content === "" && thinking === "" ? [] : [this.#line(this.#write({ content, thinking }))];
    });
  }

  end(outcome: Outcome): readonly SseEvent[] {
    const calls = this.#wholeCalls();
    const lines = calls.length > 0 ? [this.#line(this.#write({ content: "", calls }))] : [];
    return [...lines, { data: this.#last(outcome, { content: "" }) }];
  }

  whole(outcome: Outcome): object {
    return this.#last(outcome, { content: this.#content, thinking: this.#thinking, calls: this.#wholeCalls() });
  }

  fail(error: ApiError): readonly SseEvent[] {
    return [{ data: { error: error.message } }];
  }

  #line(texts: object): SseEvent {
    return { data: { ...this.#head(), ...texts, done: false } };
  }

  #head(): object {
    return { model: this.#model, created_at: this.#now().toISOString() };
  }

  #last({ usage, timings }: Outcome, texts: Texts): object {
    const { prompt_ms: promptMs = 0, predicted_ms: predictedMs = 0 } = timings ?? {};
    return {
      ...this.#head(),
      ...this.#write(texts),
      done: true,
      done_reason: this.#reason,
      total_duration: nanoseconds(promptMs + predictedMs),
      load_duration: 0,
      prompt_eval_count: usage.prompt_tokens,
      prompt_eval_duration: nanoseconds(promptMs),
      eval_count: usage.completion_tokens,
      eval_duration: nanoseconds(predictedMs),
    };
  }

  /** Joins the calls, whose arguments are objects in this API. Those that were cut off are left out. */
  #wholeCalls(): readonly object[] {
    return this.#calls.flatMap(({ id, function: { name, arguments: text } }) => {
      const args = parsedArguments(text);
      return args ? [{ id, function: { name, arguments: args } }] : [];
    });
  }
}

function nanoseconds(ms: number): number {
  return Math.round(ms * 1e6);
}
