// `POST /v1/messages` and `POST /v1/messages/count_tokens`, in the shape of Anthropic's API: requests become chats, and
// answers messages of content blocks, whole or as events.

import { randomUUID } from "node:crypto";
import type { UsageAnswer } from "../api/answer-schemas.ts";
import { chatApi, type ChatChoice, chatPrompt } from "../api/chat.ts";
import type { AnswerFormat, AnswerPart, Outcome } from "../api/generation.ts";
import { answerLight } from "../api/other-routes.ts";
import { type ChatBody, chatFieldsOf } from "../api/request-schemas.ts";
import type { RequestParts } from "../api/request-scope.ts";
import type { OpenGeneration } from "../api/serve-generation.ts";
import { checkContinued, joinedText } from "../api/structured-output.ts";
import { type ApiError, invalid, messagesErrorBody, renameParams, unsupported } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";
import { localsOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { parsedArguments } from "../tools/call-input.ts";
import { functionCall, type ToolCallDelta } from "../tools/tool-call-parser.ts";
import type { CountTokensBody, MessageAnswer, MessageBlock, MessagesBody } from "./schemas.ts";

/** Parameters of a chat that this API names otherwise. */
const PARAMS: Readonly<Record<string, string>> = {
  max_completion_tokens: "max_tokens",
  "response_format.json_schema.schema": "output_config.format.schema",
  response_format: "output_config.format",
  stop: "stop_sequences",
  continue_final_message: "messages",
};

export const openMessage: OpenGeneration<MessagesBody, ChatBody, ChatChoice> = (body, { response, id: givenId }) => {
  const { requestId } = localsOf(response);
  const id = givenId ?? `msg_${randomUUID().replaceAll("-", "")}`;
  const { thinking } = body;
  const omitsThinking = thinking != null && "display" in thinking && thinking.display === "omitted";
  return {
    ...chatApi,
    id,
    body: chatBodyOf(body),
    format: ({ model }) => new MessagesFormat({ id, requestId, model, omitsThinking }),
    translate: (error) => renameParams(error, PARAMS),
  };
};

/** Counts the tokens of the prompt that a request to `/v1/messages` would have. */
export async function countTokens(parts: RequestParts, body: CountTokensBody): Promise<void> {
  const chat: ChatBody = { ...promptFieldsOf(body), model: body.model };
  checkContinued(chat);
  await answerLight(parts, "messages", chat, async ({ engine, signal, model }) => {
    if (!engine.info.hasChatTemplate) {
      throw unsupported("messages", `The model '${model}' has no chat template; send a text to /tokenize`);
    }
    const { contextTokens } = engine.info;
    const prompt = chatPrompt(chat, chat.messages, { info: engine.info, maxTokens: contextTokens });
    const maxTokens = Math.max(LIMITS.tokenIds.value, contextTokens);
    return { input_tokens: (await engine.tokenize(prompt, { maxTokens, signal })).length };
  });
}

type ChatMessages = ChatBody["messages"];
type Message = MessagesBody["messages"][number];
type AssistantMessage = Extract<ChatMessages[number], { role: "assistant" }>;

/** @throws {ApiError} 400 for what a chat cannot have */
function chatBodyOf(body: MessagesBody): ChatBody {
  const { thinking, max_tokens: maxTokens } = body;
  if (thinking?.type === "enabled" && thinking.budget_tokens >= maxTokens) {
    throw invalid("thinking.budget_tokens", `expected less than \`max_tokens\`, ${maxTokens}`);
  }
  return {
    ...chatFieldsOf(body),
    ...promptFieldsOf(body),
    stop: body.stop_sequences,
    metadata: body.metadata?.user_id == null ? undefined : { user_id: body.metadata.user_id.slice(0, 512) },
  };
}

/**
 * Returns what decides on the prompt. An answer goes on with a last message of the assistant.
 * @throws {ApiError} 400
 */
function promptFieldsOf(body: CountTokensBody): ChatBody {
  const { messages, tools, tool_choice: choice, thinking, output_config: config, chat_template_kwargs: own } = body;
  return {
    ...(messages.at(-1)?.role === "assistant" ? { continue_final_message: true } : {}),
    messages: [...systemOf(body), ...messages.flatMap((message, index) => chatMessages(message, index))],
    tools: tools?.map(({ name, description, input_schema: parameters, strict }) => ({
      type: "function",
      function: { name, description, parameters, strict },
    })),
    tool_choice: toolChoiceOf(choice),
    parallel_tool_calls:
      choice && "disable_parallel_tool_use" in choice && choice.disable_parallel_tool_use ? false : undefined,
    response_format: config?.format
      ? { type: "json_schema", json_schema: { name: "output", schema: config.format.schema } }
      : undefined,
    reasoning_effort: thinking?.type === "disabled" ? "none" : (config?.effort ?? undefined),
    ...(thinking?.type === "enabled" ? { thinking_token_budget: thinking.budget_tokens } : {}),
    // Templates are asked for reasoning where the request has no budget and no effort.
    chat_template_kwargs: thinking?.type === "adaptive" ? { enable_thinking: true, thinking: true, ...own } : own,
  };
}

function toolChoiceOf(choice: MessagesBody["tool_choice"]): ChatBody["tool_choice"] {
  if (choice?.type === "tool") return { type: "function", function: { name: choice.name } };
  return choice?.type === "any" ? "required" : choice?.type;
}

function systemOf({ system }: CountTokensBody): ChatMessages {
  return system == null || system.length === 0 ? [] : [{ role: "system", content: joinedText(system, "\n") }];
}

function chatMessages(message: Message, index: number): ChatMessages {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: joinedText(message.content, "\n") }];
    case "user":
      return userMessages(message, index);
    case "assistant":
      return [assistantMessage(message, index)];
    default:
      throw new TypeError(`Unknown message: ${JSON.stringify(message satisfies never)}`);
  }
}

/** Results of tools become messages of their own, before the user's text. */
function userMessages({ content }: Extract<Message, { role: "user" }>, index: number): ChatMessages {
  if (typeof content === "string") return [{ role: "user", content }];
  if (content.length === 0) throw empty(index);
  const results = content.filter((block) => block.type === "tool_result");
  const texts = content.filter((block) => block.type === "text");
  return [
    ...results.map(({ tool_use_id: id, content: result, is_error: isError }) => {
      const text = result == null ? "" : joinedText(result, "\n");
      // Chat templates have no place for it.
      return { role: "tool" as const, tool_call_id: id, content: isError ? `Error: ${text}` : text };
    }),
    ...(texts.length > 0 ? [{ role: "user" as const, content: joinedText(texts, "\n") }] : []),
  ];
}

function assistantMessage({ content }: Extract<Message, { role: "assistant" }>, index: number): AssistantMessage {
  if (typeof content === "string") return { role: "assistant", content };
  if (content.length === 0) throw empty(index);
  const thoughts = content.filter((block) => block.type === "thinking");
  const texts = content.filter((block) => block.type === "text");
  const calls = content.filter((block) => block.type === "tool_use");
  return {
    role: "assistant",
    content: joinedText(texts, "\n"),
    ...(thoughts.length > 0 ? { reasoning_content: thoughts.map((block) => block.thinking).join("\n") } : {}),
    ...(calls.length > 0 ? { tool_calls: calls.map(({ id, name, input }) => functionCall(id, name, input)) } : {}),
  };
}

function empty(index: number): Error {
  return invalid(`messages[${index}].content`, "expected at least one block");
}

/** Signature of every thinking block. Clients send blocks back only if they have one. */
const SIGNATURE = "unsigned";

type Fields = Readonly<Record<string, unknown>>;

/** A block under way. The input of a call is text until it is complete. */
type OpenBlock = MessageBlock & { json?: string };

interface MessagesFormatOptions {
  readonly id: string;
  readonly model: string;
  /** Whether the text of thinking is left out. */
  readonly omitsThinking: boolean;
  readonly requestId: string;
}

/** Collects the blocks of a message, and makes the events that they are streamed as. */
class MessagesFormat implements AnswerFormat<ChatChoice> {
  readonly ping: SseEvent = { event: "ping", data: { type: "ping" } };
  readonly #options: MessagesFormatOptions;
  readonly #content: OpenBlock[] = [];
  #events: SseEvent[] = [];
  #hasBegun = false;
  #open: OpenBlock | undefined;
  #stopReason: MessageAnswer["stop_reason"] = null;
  #stopSequence: string | null = null;

  constructor(options: MessagesFormatOptions) {
    this.#options = options;
  }

  add({ piece, choices, promptTokens }: AnswerPart<ChatChoice>): readonly SseEvent[] {
    if (!this.#hasBegun) {
      this.#hasBegun = true;
      const message = { ...this.#head(), content: [], stop_reason: null, stop_sequence: null, stop_details: null };
      // How much of the prompt was cached is known at the end.
      const counted = {
        prompt_tokens: promptTokens,
        prompt_tokens_details: { cached_tokens: 0 },
        completion_tokens: 1,
      };
      this.#emit("message_start", { message: { ...message, usage: usageOf(counted) } });
    }
    for (const { delta, finish_reason: finishReason } of choices) {
      if (delta.reasoning_content !== undefined) this.#addThinking(delta.reasoning_content);
      if (delta.content !== undefined && delta.content !== "") this.#addText(delta.content);
      for (const call of delta.tool_calls ?? []) this.#addCall(call);
      if (finishReason !== null) this.#stop(finishReason, piece.stop);
    }
    return this.#take();
  }

  end({ usage }: Outcome): readonly SseEvent[] {
    this.#close();
    const delta = { stop_reason: this.#stopReason, stop_sequence: this.#stopSequence, stop_details: null };
    this.#emit("message_delta", { delta, usage: usageOf(usage) });
    this.#emit("message_stop", {});
    return this.#take();
  }

  whole({ usage }: Outcome): MessageAnswer {
    this.#close();
    const stop = { stop_reason: this.#stopReason, stop_sequence: this.#stopSequence };
    return { ...this.#head(), content: this.#content, ...stop, stop_details: null, usage: usageOf(usage) };
  }

  fail(error: ApiError): readonly SseEvent[] {
    return [{ event: "error", data: messagesErrorBody(error, this.#options.requestId) }];
  }

  #head(): Pick<MessageAnswer, "id" | "type" | "role" | "model" | "container"> {
    const { id, model } = this.#options;
    return { id, type: "message", role: "assistant", model, container: null };
  }

  #stop(reason: NonNullable<ChatChoice["finish_reason"]>, stop: string | undefined): void {
    this.#stopSequence = stop ?? null;
    if (reason === "length") this.#stopReason = "max_tokens";
    else if (reason === "tool_calls") this.#stopReason = "tool_use";
    else this.#stopReason = stop === undefined ? "end_turn" : "stop_sequence";
  }

  #addThinking(text: string): void {
    if (this.#open?.type !== "thinking") this.#begin({ type: "thinking", thinking: "", signature: "" });
    if (this.#open?.type !== "thinking" || this.#options.omitsThinking) return;
    this.#open.thinking += text;
    this.#emitDelta({ type: "thinking_delta", thinking: text });
  }

  #addText(text: string): void {
    if (this.#open?.type !== "text") this.#begin({ type: "text", text: "" });
    if (this.#open?.type !== "text") return;
    this.#open.text += text;
    this.#emitDelta({ type: "text_delta", text });
  }

  #addCall({ id, function: { name = "", arguments: args } }: ToolCallDelta): void {
    if (id !== undefined) this.#begin({ type: "tool_use", id, name, input: {}, caller: { type: "direct" } });
    if (this.#open?.type !== "tool_use" || args === "") return;
    this.#open.json = (this.#open.json ?? "") + args;
    this.#emitDelta({ type: "input_json_delta", partial_json: args });
  }

  #begin(block: OpenBlock): void {
    this.#close();
    this.#open = block;
    this.#content.push(block);
    this.#emit("content_block_start", { index: this.#content.length - 1, content_block: { ...block } });
  }

  #close(): void {
    const block = this.#open;
    if (!block) return;
    if (block.type === "thinking") {
      block.signature = SIGNATURE;
      this.#emitDelta({ type: "signature_delta", signature: SIGNATURE });
    }
    if (block.type === "tool_use") block.input = parsedArguments(block.json ?? "{}") ?? {};
    delete block.json;
    this.#emit("content_block_stop", { index: this.#content.length - 1 });
    this.#open = undefined;
  }

  #emitDelta(delta: Fields): void {
    this.#emit("content_block_delta", { index: this.#content.length - 1, delta });
  }

  #emit(type: string, fields: Fields): void {
    this.#events.push({ event: type, data: { type, ...fields } });
  }

  #take(): readonly SseEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

function usageOf(usage: Omit<UsageAnswer, "total_tokens">): MessageAnswer["usage"] {
  const cached = usage.prompt_tokens_details.cached_tokens;
  return {
    input_tokens: usage.prompt_tokens - cached,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached,
    output_tokens: usage.completion_tokens,
    output_tokens_details: { thinking_tokens: usage.completion_tokens_details?.reasoning_tokens ?? 0 },
  };
}
