// Pieces of a chat's answer as choices in the shape of chat completions: reasoning, content and tool calls.

import type { Engine, FinishReason } from "@readme-moe/core";
import { JsonList } from "../http/reply.ts";
import type { ChatReasoning } from "../reasoning/open.ts";
import type { ReasoningParser } from "../reasoning/parser.ts";
import { joinToolCalls, type ToolCallDelta, type WholeToolCall } from "../tools/tool-calls.ts";
import { type ToolCallParser } from "../tools/tool-call-parser.ts";
import type { ChatLogprobs } from "./answer-schemas.ts";
import {
  routesOf,
  textTokens,
  type AnswerShape,
  type ChoiceCollector,
  type ChoiceRoutes,
  type Piece,
} from "./generation.ts";
import { chatLogprobs } from "./logprobs.ts";

interface ChatDelta {
  readonly role?: "assistant";
  readonly reasoning_content?: string;
  readonly content?: string;
  readonly tool_calls?: readonly ToolCallDelta[];
}

export interface ChatChoice extends ChoiceRoutes {
  readonly index: number;
  readonly delta: ChatDelta;
  readonly logprobs: ChatLogprobs | null;
  readonly finish_reason: FinishReason | "tool_calls" | null;
}

export interface ChatShapeOptions {
  readonly engine: Engine;
  /** Number of most likely tokens per token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Creates the parser that takes tool calls out of a choice's text. @default the text is content */
  readonly newParser: (() => ToolCallParser) | undefined;
  readonly reasoning: Pick<ChatReasoning, "newParser" | "endId">;
}

/** Parsers of one choice, each absent where the text needs none. */
interface ChoiceParsers {
  readonly calls: ToolCallParser | undefined;
  readonly reasoning: ReasoningParser | undefined;
}

export function chatShape(options: ChatShapeOptions): AnswerShape<ChatChoice> {
  const { engine, logprobs, includesRoutes, newParser, reasoning } = options;
  /** Parsers of each choice that has begun. */
  const parsers = new Map<number, ChoiceParsers>();
  let reasoningTokens = 0;
  return {
    objects: { whole: "chat.completion", chunk: "chat.completion.chunk" },
    async render(piece) {
      const { index, finishReason } = piece;
      const known = parsers.get(index);
      const own = known ?? { calls: newParser?.(), reasoning: reasoning.newParser?.() };
      parsers.set(index, own);
      const wasReasoning = own.reasoning?.isReasoning ?? false;
      const deltas = deltasOf(piece, own);
      if (wasReasoning || own.reasoning?.isReasoning || deltas.some((delta) => delta.reasoning_content !== undefined)) {
        reasoningTokens += tokensUntil(piece, reasoning.endId);
      }
      const tokens = textTokens(piece);
      const hasLogprobs = logprobs !== undefined && tokens.length > 0;
      const ofTokens = hasLogprobs ? await chatLogprobs(engine, tokens, logprobs) : null;
      const routes = routesOf(piece, includesRoutes);
      if (deltas.length === 0 && (ofTokens || routes.read_me)) deltas.push({ content: "" });
      const choice = (delta: ChatDelta): ChatChoice => ({ index, delta, logprobs: null, finish_reason: null });
      const choices = deltas.map((delta, at) =>
        at === 0 ? { ...choice(delta), logprobs: ofTokens, ...routes } : choice(delta),
      );
      if (!known) choices.unshift(choice({ role: "assistant", content: "" }));
      if (finishReason) {
        choices.push({ ...choice({}), finish_reason: own.calls?.calledTools ? "tool_calls" : finishReason });
      }
      return choices;
    },
    collect: (index) => collectChat(index, options),
    ...(reasoning.newParser ? { reasoningTokens: () => reasoningTokens } : {}),
  };
}

/** Counts a piece's tokens up to the end of reasoning; all of them where it is not in the piece. */
function tokensUntil({ tokens }: Piece, endId: number | undefined): number {
  const end = tokens.findIndex(({ id }) => id === endId);
  return end === -1 ? tokens.length : end + 1;
}

function deltasOf({ text, finishReason }: Piece, { calls, reasoning }: ChoiceParsers): ChatDelta[] {
  const split = reasoning?.push(text) ?? { reasoning: "", content: text };
  const parts = finishReason && reasoning ? [split, reasoning.end()] : [split];
  const thought = parts.map((part) => part.reasoning).join("");
  const content = parts.map((part) => part.content).join("");
  const thoughts: ChatDelta[] = thought === "" ? [] : [{ reasoning_content: thought }];
  if (!calls) return content === "" ? thoughts : [...thoughts, { content }];
  const parsed = [calls.push(content), ...(finishReason ? [calls.end()] : [])];
  const deltas = parsed.flatMap((part): ChatDelta[] => [
    ...(part.content === "" ? [] : [{ content: part.content }]),
    ...(part.toolCalls.length === 0 ? [] : [{ tool_calls: part.toolCalls }]),
  ]);
  return [...thoughts, ...deltas];
}

function collectChat(
  index: number,
  { logprobs, includesRoutes }: Pick<ChatShapeOptions, "logprobs" | "includesRoutes">,
): ChoiceCollector<ChatChoice> {
  let [text, thought] = ["", ""];
  let finishReason: ChatChoice["finish_reason"] = null;
  const calls: WholeToolCall[] = [];
  const content = new JsonList<ChatLogprobs["content"][number]>();
  const routes: (number | null)[] = [];
  return {
    get keptBytes() {
      return content.bytes;
    },
    add({ delta, logprobs: own, finish_reason: reason, read_me: fields }) {
      text += delta.content ?? "";
      thought += delta.reasoning_content ?? "";
      joinToolCalls(delta.tool_calls ?? [], calls);
      content.push(...(own?.content ?? []));
      routes.push(...(fields?.routes ?? []));
      finishReason = reason;
    },
    whole: () => ({
      index,
      message: {
        role: "assistant",
        content: text === "" && calls.length > 0 ? null : text,
        ...(thought === "" ? {} : { reasoning_content: thought }),
        refusal: null,
        ...(calls.length > 0 ? { tool_calls: calls } : {}),
      },
      logprobs: logprobs === undefined ? null : { content, refusal: null },
      finish_reason: finishReason,
      ...(includesRoutes ? { read_me: { routes } } : {}),
    }),
  };
}
