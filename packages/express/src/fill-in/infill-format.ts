// Answers in the shape of llama.cpp's server.

import { isRecord } from "@readme-moe/core";
import type { CompletionChoice } from "../api/completions.ts";
import type { AnswerFormat, AnswerPart, Outcome } from "../api/generation.ts";
import type { ApiError } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";

interface InfillFormatOptions {
  /** Name of the model. */
  readonly model: string;
  /** Fields of the answer by their paths. @default all */
  readonly fields: readonly string[];
  /** Whether the request was to read the prompt only. */
  readonly isEmpty: boolean;
}

/** Collects an answer, and makes the events that it is streamed as. */
export class InfillFormat implements AnswerFormat<CompletionChoice> {
  readonly #options: InfillFormatOptions;
  #content = "";
  #numTokens = 0;
  #stopType: "eos" | "limit" | "word" = "eos";
  #stop = "";

  constructor(options: InfillFormatOptions) {
    this.#options = options;
  }

  add({ piece, choices, promptTokens }: AnswerPart<CompletionChoice>): readonly SseEvent[] {
    const { finishReason, stop } = piece;
    if (finishReason) this.#stopType = finishReason === "length" ? "limit" : stop === undefined ? "eos" : "word";
    this.#stop = stop ?? "";
    if (this.#options.isEmpty) return [];
    this.#numTokens += piece.tokens.length;
    const content = choices.map(({ text }) => text).join("");
    this.#content += content;
    if (content === "") return [];
    const counts = { tokens_predicted: this.#numTokens, tokens_evaluated: promptTokens };
    return [{ data: { index: 0, content, tokens: [], stop: false, id_slot: 0, ...counts } }];
  }

  end(outcome: Outcome): readonly SseEvent[] {
    return [{ data: this.#last(outcome, "") }];
  }

  whole(outcome: Outcome): object {
    return this.#last(outcome, this.#content);
  }

  fail(error: ApiError): readonly SseEvent[] {
    return [{ data: error.toJSON() }];
  }

  #last({ usage, timings }: Outcome, content: string): object {
    const { model, fields } = this.#options;
    return selectFields(fields, {
      index: 0,
      content,
      tokens: [],
      id_slot: 0,
      stop: true,
      model,
      tokens_predicted: this.#numTokens,
      tokens_evaluated: usage.prompt_tokens,
      tokens_cached: usage.prompt_tokens + this.#numTokens,
      has_new_line: this.#content.includes("\n"),
      truncated: false,
      stop_type: this.#stopType,
      stopping_word: this.#stop,
      timings,
    });
  }
}

/** Selects values by paths such as `timings/prompt_n`, each under its path. Unknown paths are left out. */
export function selectFields(paths: readonly string[], answer: object): object {
  if (paths.length === 0) return answer;
  const found = paths.map((path) => {
    const value = path
      .split("/")
      .reduce<unknown>((at, key) => (isRecord(at) && Object.hasOwn(at, key) ? at[key] : undefined), answer);
    return [path, value] as const;
  });
  return Object.fromEntries(found.filter(([, value]) => value !== undefined));
}
