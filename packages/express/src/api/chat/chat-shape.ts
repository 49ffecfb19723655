// The shape of chat completions.

import type { Engine, FinishReason } from "@readme-moe/core";
import type { AnswerShape } from "../answer/answer-shape.ts";
import { joinRoutes, routesOf, shownTokens, type ChoiceReadMe } from "../answer/routes.ts";
import type { Piece } from "../generation/generate-all.ts";
import type { ChatLogprobs } from "../schemas/answers.ts";
import { chatLogprobs } from "./chat-logprobs.ts";
import { joinToolCalls, plainText, type OutputParser, type ToolCallDelta } from "../../tools/output-parser.ts";

interface ChatDelta {
  readonly role?: "assistant";
  readonly content?: string;
  readonly tool_calls?: readonly ToolCallDelta[];
}

export interface ChatChoice extends ChoiceReadMe {
  readonly index: number;
  readonly delta: ChatDelta;
  readonly logprobs: ChatLogprobs | null;
  readonly finish_reason: FinishReason | "tool_calls" | null;
}

export interface ChatShapeOptions {
  readonly engine: Engine;
  /** Most likely tokens to be told of with each token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Takes tool calls out of a choice's text. @default there are none */
  readonly newParser?: (() => OutputParser) | undefined;
}

export function chatShape(options: ChatShapeOptions): AnswerShape<ChatChoice> {
  const { engine, logprobs, includesRoutes, newParser = plainText } = options;
  const parsers = new Map<number, OutputParser>();
  return {
    objects: { whole: "chat.completion", chunk: "chat.completion.chunk" },
    async render(piece) {
      const known = parsers.get(piece.index);
      const parser = known ?? newParser();
      parsers.set(piece.index, parser);
      const deltas = deltasOf(piece, parser);
      const tokens = shownTokens(piece);
      const told = logprobs !== undefined && tokens.length > 0 ? await chatLogprobs(engine, tokens, logprobs) : null;
      const routes = routesOf(piece, includesRoutes);
      if (deltas.length === 0 && (told || routes.read_me)) deltas.push({ content: "" });
      const { index } = piece;
      const choice = (delta: ChatDelta): ChatChoice => ({ index, delta, logprobs: null, finish_reason: null });
      const choices = deltas.map((delta, at) =>
        at === 0 ? { ...choice(delta), logprobs: told, ...routes } : choice(delta),
      );
      if (!known) choices.unshift(choice({ role: "assistant", content: "" }));
      if (piece.finishReason) {
        choices.push({ ...choice({}), finish_reason: parser.calledTools ? "tool_calls" : piece.finishReason });
      }
      return choices;
    },
    join: (index, chunks) => joinChat(index, chunks, logprobs !== undefined, includesRoutes),
  };
}

function deltasOf({ text, finishReason }: Piece, parser: OutputParser): ChatDelta[] {
  const parts = [parser.push(text), ...(finishReason ? [parser.end()] : [])];
  return parts.flatMap(({ content, toolCalls }) => [
    ...(content === "" ? [] : [{ content }]),
    ...(toolCalls.length === 0 ? [] : [{ tool_calls: toolCalls }]),
  ]);
}

function joinChat(
  index: number,
  chunks: readonly ChatChoice[],
  hasLogprobs: boolean,
  includesRoutes: boolean,
): Omit<ChatChoice, "delta"> & { readonly message: object } {
  const content = chunks.map(({ delta }) => delta.content ?? "").join("");
  const toolCalls = joinToolCalls(chunks.flatMap(({ delta }) => delta.tool_calls ?? []));
  const calls = toolCalls.length > 0 ? { tool_calls: toolCalls } : {};
  return {
    index,
    message: {
      role: "assistant",
      content: content === "" && toolCalls.length > 0 ? null : content,
      refusal: null,
      ...calls,
    },
    logprobs: hasLogprobs
      ? { content: chunks.flatMap(({ logprobs }) => logprobs?.content ?? []), refusal: null }
      : null,
    finish_reason: chunks.at(-1)?.finish_reason ?? null,
    ...joinRoutes(chunks, includesRoutes),
  };
}
