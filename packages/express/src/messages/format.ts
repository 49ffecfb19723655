// The answer of `/v1/messages`: a message of content blocks, whole or as events.

import type { AnswerFormat, AnswerPart, Outcome } from "../api/answer-format.ts";
import type { UsageAnswer } from "../api/answer-schemas.ts";
import type { ChatChoice } from "../api/chat.ts";
import { messagesErrorBody, type ApiError } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";
import { parsedArguments, type ToolCallDelta } from "../tools/tool-call-parser.ts";
import type { MessageAnswer, MessageBlock } from "./schemas.ts";

/** Signature of every thinking block. Clients send blocks back only if they have one. */
const SIGNATURE = "unsigned";

type Fields = Readonly<Record<string, unknown>>;

/** A block under way. The input of a call is text until it is complete. */
type OpenBlock = MessageBlock & { json?: string };

export interface MessagesFormatOptions {
  readonly id: string;
  readonly model: string;
  /** Whether the text of thinking is left out. */
  readonly omitsThinking: boolean;
  readonly requestId: string;
}

/** Collects the blocks of a message, and makes the events that they are streamed as. */
export class MessagesFormat implements AnswerFormat<ChatChoice> {
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
      this.#emit("message_start", { message: { ...message, usage: usageAnswer({ input: promptTokens, output: 1 }) } });
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

  /** Ends the block under way. */
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

function usageOf(usage: UsageAnswer): MessageAnswer["usage"] {
  const cached = usage.prompt_tokens_details.cached_tokens;
  const thinking = usage.completion_tokens_details?.reasoning_tokens ?? 0;
  return usageAnswer({ input: usage.prompt_tokens - cached, cached, output: usage.completion_tokens, thinking });
}

interface Counts {
  readonly input: number;
  readonly cached?: number;
  readonly output: number;
  readonly thinking?: number;
}

function usageAnswer({ input, cached = 0, output, thinking = 0 }: Counts): MessageAnswer["usage"] {
  return {
    input_tokens: input,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cached,
    output_tokens: output,
    output_tokens_details: { thinking_tokens: thinking },
  };
}
