// The shape of completions, the older of the two APIs.

import type { Engine, FinishReason } from "@readme-moe/core";
import type { AnswerShape } from "../answer/answer-shape.ts";
import { joinRoutes, routesOf, shownTokens, type ChoiceReadMe } from "../answer/routes.ts";
import type { CompletionLogprobs } from "../schemas/answers.ts";
import { completionLogprobs, joinLogprobs } from "./completion-logprobs.ts";

export interface CompletionChoice extends ChoiceReadMe {
  readonly index: number;
  readonly text: string;
  readonly logprobs: CompletionLogprobs | null;
  readonly finish_reason: FinishReason | null;
}

export interface CompletionShapeOptions {
  readonly engine: Engine;
  /** Most likely tokens to be told of with each token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Text of each prompt, where answers begin with it. */
  readonly echoes?: readonly string[] | undefined;
}

export function completionShape(options: CompletionShapeOptions): AnswerShape<CompletionChoice> {
  const { engine, logprobs, includesRoutes, echoes } = options;
  const offsets = new Map<number, number>();
  return {
    objects: { whole: "text_completion", chunk: "text_completion" },
    async render(piece) {
      const { index, finishReason } = piece;
      const offset = offsets.get(index);
      const text = (offset === undefined ? (echoes?.[piece.prompt] ?? "") : "") + piece.text;
      const tokens = shownTokens(piece);
      const hasLogprobs = logprobs !== undefined && tokens.length > 0;
      const told = hasLogprobs ? await completionLogprobs(engine, tokens, logprobs, offset ?? 0) : null;
      offsets.set(index, (offset ?? 0) + (told?.tokens.join("").length ?? 0));
      const routes = routesOf(piece, includesRoutes);
      // The first chunk says that the first token is there, even where its text is held back.
      if (offset !== undefined && text === "" && !told && !routes.read_me && !finishReason) return [];
      return [{ index, text, logprobs: told, finish_reason: finishReason ?? null, ...routes }];
    },
    join: (index, chunks) => ({
      index,
      text: chunks.map((chunk) => chunk.text).join(""),
      logprobs: logprobs === undefined ? null : joinLogprobs(chunks.map((chunk) => chunk.logprobs)),
      finish_reason: chunks.at(-1)?.finish_reason ?? null,
      ...joinRoutes(chunks, includesRoutes),
    }),
  };
}
