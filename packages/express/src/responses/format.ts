// The answer of `/v1/responses`: a list of items, whole or as events.

import { randomUUID } from "node:crypto";
import type { UsageAnswer } from "../api/answer-schemas.ts";
import { type ChatChoice, partIds } from "../api/chat.ts";
import { type AnswerFormat, type AnswerPart, nowSeconds, type Outcome } from "../api/generation.ts";
import type { ApiError } from "../http/errors.ts";
import { JsonList, type SseEvent } from "../http/reply.ts";
import type { ToolCallDelta } from "../tools/tool-call-parser.ts";
import type { OutputItem, OutputLogprobs, ResponseAnswer } from "./schemas.ts";

export function newItemId(prefix: string): string {
  return `${prefix}_${randomUUID().replaceAll("-", "")}`;
}

/** Code of the error that ends a response whose client has cancelled it. */
export const CANCELLED = "response_cancelled";

type Status = ResponseAnswer["status"];
type Fields = Readonly<Record<string, unknown>>;

export interface ResponsesFormatOptions {
  /** The response before it has an answer. The ids of its items follow from its id. */
  readonly begun: ResponseAnswer;
  /** Whether reasoning is given as its summary. */
  readonly summarizes: boolean;
  readonly hasLogprobs: boolean;
  /** Called once with the response at its end, whatever the end. */
  readonly onEnd: (response: ResponseAnswer) => void;
}

/** Collects the items of a response, and makes the events that they are streamed as. */
export class ResponsesFormat implements AnswerFormat<ChatChoice> {
  readonly #options: ResponsesFormatOptions;
  readonly #newItemId: (prefix: string) => string;
  readonly #output: OutputItem[] = [];
  #events: SseEvent[] = [];
  #numEvents = 0;
  /** Item under way: the last of `#output`. */
  #open: OutputItem | undefined;
  #logprobs = new JsonList<OutputLogprobs[number]>();
  /** Log-probabilities of tokens whose text is held back. */
  #pendingLogprobs = new JsonList<OutputLogprobs[number]>();
  /** Bytes of the log-probabilities of earlier items. */
  #earlierBytes = 0;
  #isCut = false;

  constructor(options: ResponsesFormatOptions) {
    this.#options = options;
    this.#newItemId = partIds(options.begun.id);
  }

  get keptBytes(): number {
    return this.#earlierBytes + this.#logprobs.bytes + this.#pendingLogprobs.bytes;
  }

  /** The response as far as it is known. */
  get snapshot(): ResponseAnswer {
    return { ...this.#options.begun, output: this.#output };
  }

  add({ choices }: AnswerPart<ChatChoice>): readonly SseEvent[] {
    if (this.#numEvents === 0) {
      this.#emit("response.created", { response: this.#options.begun });
      this.#emit("response.in_progress", { response: this.#options.begun });
    }
    for (const { delta, logprobs, finish_reason: finishReason } of choices) {
      if (delta.reasoning_content !== undefined) this.#addReasoning(delta.reasoning_content);
      else if (this.#options.hasLogprobs) this.#pendingLogprobs.push(...(logprobs?.content ?? []));
      if (delta.content !== undefined && delta.content !== "") this.#addText(delta.content);
      for (const call of delta.tool_calls ?? []) this.#addCall(call);
      this.#isCut ||= finishReason === "length";
    }
    return this.#take();
  }

  end(outcome: Outcome): readonly SseEvent[] {
    const response = this.#finish(outcome);
    this.#emit(`response.${response.status}`, { response });
    return this.#take();
  }

  whole(outcome: Outcome): ResponseAnswer {
    return this.#finish(outcome);
  }

  /** Ends the response with an error; a cancelled one is incomplete and has no error. */
  fail({ code, message }: ApiError): readonly SseEvent[] {
    const isCancelled = code === CANCELLED;
    const error = { code: code ?? "server_error", message };
    if (isCancelled) this.#close("incomplete");
    else this.#emit("error", { ...error, param: null });
    const status: Status = isCancelled ? "cancelled" : "failed";
    const response = this.#ended(status, isCancelled ? {} : { error });
    this.#emit(isCancelled ? "response.incomplete" : "response.failed", { response });
    return this.#take();
  }

  #finish({ usage }: Outcome): ResponseAnswer {
    // An answer without any text still is a message.
    if (this.#output.length === 0) this.#begin({ ...this.#messageHead(), content: [] });
    this.#close(this.#isCut ? "incomplete" : "completed");
    const details: Partial<ResponseAnswer> = this.#isCut ? { incomplete_details: { reason: "max_output_tokens" } } : {};
    return this.#ended(this.#isCut ? "incomplete" : "completed", { ...details, usage: usageOf(usage) });
  }

  #ended(status: Status, details: Partial<ResponseAnswer>): ResponseAnswer {
    const completedAt = status === "completed" ? nowSeconds() : null;
    const response = { ...this.snapshot, status, completed_at: completedAt, ...details };
    this.#options.onEnd(response);
    return response;
  }

  #addReasoning(text: string): void {
    const { summarizes } = this.#options;
    const [kind, part] = summarizes
      ? (["reasoning_summary_text", { type: "summary_text", text: "" }] as const)
      : (["reasoning_text", { type: "reasoning_text", text: "" }] as const);
    if (this.#open?.type !== "reasoning") {
      const head = { id: this.#newItemId("rs"), type: "reasoning", status: "in_progress" } as const;
      this.#begin(summarizes ? { ...head, summary: [] } : { ...head, summary: [], content: [] });
      if (summarizes) this.#emitOfItem("response.reasoning_summary_part.added", { summary_index: 0, part });
      else this.#emitOfItem("response.content_part.added", { content_index: 0, part });
    }
    const item = this.#open;
    if (item?.type !== "reasoning") return;
    const parts = summarizes ? item.summary : (item.content ?? []);
    const before = parts[0]?.text ?? "";
    if (summarizes) item.summary = [{ type: "summary_text", text: before + text }];
    else item.content = [{ type: "reasoning_text", text: before + text }];
    this.#emitOfItem(`response.${kind}.delta`, { ...this.#partIndex(), delta: text });
  }

  #addText(text: string): void {
    if (this.#open?.type !== "message") {
      this.#begin({ ...this.#messageHead(), content: [] });
      const part = { type: "output_text", text: "", annotations: [] };
      this.#emitOfItem("response.content_part.added", { content_index: 0, part });
    }
    const item = this.#open;
    if (item?.type !== "message") return;
    const logprobs = this.#pendingLogprobs;
    this.#pendingLogprobs = new JsonList();
    this.#logprobs.append(logprobs);
    item.content = [this.#textPart((item.content[0]?.text ?? "") + text)];
    this.#emitOfItem("response.output_text.delta", { content_index: 0, delta: text, logprobs: logprobs.asItems() });
  }

  #textPart(text: string): Extract<OutputItem, { type: "message" }>["content"][number] {
    const logprobs = this.#options.hasLogprobs ? { logprobs: this.#logprobs.asItems() } : {};
    return { type: "output_text", text, annotations: [], ...logprobs };
  }

  #addCall({ id, function: { name = "", arguments: args } }: ToolCallDelta): void {
    if (id !== undefined) {
      const head = { id: this.#newItemId("fc"), type: "function_call", status: "in_progress" } as const;
      this.#begin({ ...head, call_id: id, name, arguments: "" });
    }
    const item = this.#open;
    if (item?.type !== "function_call" || args === "") return;
    item.arguments += args;
    this.#emitOfItem("response.function_call_arguments.delta", { delta: args });
  }

  #begin(item: OutputItem): void {
    this.#close("completed");
    this.#open = item;
    this.#output.push(item);
    this.#earlierBytes += this.#logprobs.bytes;
    this.#logprobs = new JsonList();
    // Calls have none.
    if (item.type === "function_call") this.#pendingLogprobs = new JsonList();
    this.#emit("response.output_item.added", { output_index: this.#output.length - 1, item: structuredClone(item) });
  }

  #close(status: "completed" | "incomplete"): void {
    const item = this.#open;
    if (!item) return;
    item.status = status;
    switch (item.type) {
      case "reasoning": {
        const [part] = this.#options.summarizes ? item.summary : (item.content ?? []);
        const [text, part_] = this.#options.summarizes
          ? ["reasoning_summary_text", "reasoning_summary_part"]
          : ["reasoning_text", "content_part"];
        this.#emitOfItem(`response.${text}.done`, { ...this.#partIndex(), text: part?.text ?? "" });
        this.#emitOfItem(`response.${part_}.done`, { ...this.#partIndex(), part });
        break;
      }
      case "message": {
        const part = item.content[0] ?? this.#textPart("");
        if (item.content.length === 0) {
          item.content = [part];
          this.#emitOfItem("response.content_part.added", { content_index: 0, part });
        }
        const { text, logprobs = [] } = part;
        this.#emitOfItem("response.output_text.done", { content_index: 0, text, logprobs });
        this.#emitOfItem("response.content_part.done", { content_index: 0, part });
        break;
      }
      case "function_call": {
        const { name, arguments: args } = item;
        this.#emitOfItem("response.function_call_arguments.done", { name, arguments: args });
        break;
      }
      default:
        throw new TypeError(`Unknown item: ${JSON.stringify(item satisfies never)}`);
    }
    this.#emit("response.output_item.done", { output_index: this.#output.length - 1, item });
    this.#open = undefined;
  }

  #messageHead(): Omit<Extract<OutputItem, { type: "message" }>, "content"> {
    return { id: this.#newItemId("msg"), type: "message", status: "in_progress", role: "assistant" };
  }

  #partIndex(): Fields {
    return this.#options.summarizes ? { summary_index: 0 } : { content_index: 0 };
  }

  #emitOfItem(type: string, fields: Fields): void {
    this.#emit(type, { item_id: this.#open?.id, output_index: this.#output.length - 1, ...fields });
  }

  #emit(type: string, fields: Fields): void {
    this.#events.push({ event: type, data: { type, sequence_number: this.#numEvents++, ...fields } });
  }

  #take(): readonly SseEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

function usageOf(usage: UsageAnswer): ResponseAnswer["usage"] {
  return {
    input_tokens: usage.prompt_tokens,
    input_tokens_details: { cached_tokens: usage.prompt_tokens_details.cached_tokens },
    output_tokens: usage.completion_tokens,
    output_tokens_details: { reasoning_tokens: usage.completion_tokens_details?.reasoning_tokens ?? 0 },
    total_tokens: usage.total_tokens,
  };
}
