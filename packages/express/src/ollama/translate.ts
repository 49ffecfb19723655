// Translates requests of Ollama's API to chats or texts to continue, and answers back: one object, or one for each
// piece, each on a line of its own.

import { wireName } from "@readme-moe/core";
import type { ChatChoice } from "../api/chat.ts";
import type { CompletionChoice } from "../api/completions.ts";
import type { AnswerFormat, AnswerPart, Outcome } from "../api/generation.ts";
import { type ChatBody, type CompletionBody, type samplingFields, samplingValue } from "../api/request-schemas.ts";
import { type ApiError, invalid } from "../http/errors.ts";
import type { SseEvent } from "../http/reply.ts";
import { parsedArguments } from "../tools/call-input.ts";
import { functionCall, joinToolCalls, type WholeToolCall } from "../tools/tool-call-parser.ts";
import {
  OLLAMA_PARAMETERS,
  type OllamaChatBody,
  type OllamaGenerateBody,
  type OllamaShared,
  type samplingOptions,
} from "./schemas.ts";

type ChatMessage = ChatBody["messages"][number];
type Message = NonNullable<OllamaChatBody["messages"]>[number];

/** @throws {ApiError} 400 for what a chat cannot have */
export function chatOf(body: OllamaChatBody): ChatBody {
  return {
    ...chatWith(messagesOf(body.messages ?? []), body),
    tools: body.tools?.map(({ type, function: { name, description, parameters } }) => ({
      type,
      function: { name, description, parameters },
    })),
  };
}

/** Makes a chat of a prompt and a system text. */
export function chatOfPrompt(body: OllamaGenerateBody): ChatBody {
  const system: readonly ChatMessage[] = body.system ? [{ role: "system", content: body.system }] : [];
  return chatWith([...system, { role: "user", content: body.prompt ?? "" }], body);
}

/** Makes a continuation of a prompt, or of a text with a gap, which the template is left out of. */
export function completionOf(body: OllamaGenerateBody): CompletionBody {
  const { num_predict: numPredict } = body.options ?? {};
  return {
    ...sharedOf(body),
    prompt: body.prompt ?? "",
    suffix: body.suffix,
    // Without a limit, up to the end of the context.
    max_tokens: limitOf(numPredict) ?? Number.MAX_SAFE_INTEGER,
    ...(body.format ? { structured_outputs: structureOf(body.format) } : {}),
  };
}

function structureOf(format: NonNullable<OllamaShared["format"]>): CompletionBody["structured_outputs"] {
  if (format === "") return undefined;
  return format === "json" ? { json_object: true } : { json: format };
}

type SharedFields = Pick<ChatBody & CompletionBody, "model" | "stream" | "read_me" | keyof typeof samplingFields>;

function sharedOf({ model, stream, options }: OllamaShared): SharedFields {
  return { model, stream: stream ?? true, ...ollamaSampling(options), read_me: { include: ["timings"] } };
}

/** Reads the sampling parameters of Ollama's names, which are those of llama.cpp's server. */
export function ollamaSampling(
  options: Partial<Record<keyof typeof samplingOptions, unknown>> | null | undefined,
): Pick<CompletionBody, keyof typeof samplingFields> {
  return Object.fromEntries(
    OLLAMA_PARAMETERS.map(([name, entry]) => [wireName(name), samplingValue(entry, options?.[entry.ollama.name])]),
  );
}

function limitOf(numPredict: number | null | undefined): number | undefined {
  if (numPredict === 0) throw invalid("options.num_predict", "expected at least one token, or a negative number");
  return numPredict == null || numPredict < 0 ? undefined : numPredict;
}

function chatWith(messages: ChatBody["messages"], body: OllamaShared): ChatBody {
  const { format, think, options } = body;
  return {
    ...sharedOf(body),
    messages,
    max_completion_tokens: limitOf(options?.num_predict),
    response_format: responseFormatOf(format),
    reasoning_effort: think === false ? "none" : typeof think === "string" ? think : undefined,
    // Templates know one of both names.
    chat_template_kwargs: think === true ? { enable_thinking: true, thinking: true } : undefined,
  };
}

function responseFormatOf(format: OllamaShared["format"]): ChatBody["response_format"] {
  if (format == null || format === "") return undefined;
  if (format === "json") return { type: "json_object" };
  return { type: "json_schema", json_schema: { name: "format", schema: format } };
}

/** Gives calls of tools ids, which results in Ollama's API refer to by their order. */
function messagesOf(messages: readonly Message[]): ChatBody["messages"] {
  let ids: string[] = [];
  return messages.map((message, index): ChatMessage => {
    const { role, content, thinking } = message;
    if (role === "assistant") {
      const calls = message.tool_calls ?? [];
      ids = calls.map(({ id }, call) => id ?? `call_${index}_${call}`);
      return {
        role,
        content: content ?? (calls.length > 0 ? null : ""),
        ...(thinking == null ? {} : { reasoning_content: thinking }),
        ...(calls.length === 0
          ? {}
          : {
              tool_calls: calls.map((call, place) =>
                functionCall(ids[place] ?? "", call.function.name, call.function.arguments),
              ),
            }),
      };
    }
    if (role !== "tool") return { role, content: content ?? "" };
    const id = message.tool_call_id ?? ids[0];
    if (id === undefined) throw invalid(`messages[${index}]`, "expected a result of a tool that was called before");
    ids = ids.filter((other) => other !== id);
    return { role, content: content ?? "", tool_call_id: id, name: message.tool_name };
  });
}

interface Texts {
  readonly content: string;
  readonly thinking?: string;
  readonly calls?: readonly object[];
}

type WriteTexts = (texts: Texts) => object;

export const asMessage: WriteTexts = ({ content, thinking, calls }) => ({
  message: {
    role: "assistant",
    content,
    ...(thinking ? { thinking } : {}),
    ...(calls && calls.length > 0 ? { tool_calls: calls } : {}),
  },
});

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
