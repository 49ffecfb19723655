// Requests of Ollama's API as requests for a chat, or for the continuation of a text.

import type { ChatBody, CompletionBody } from "../api/request-schemas.ts";
import { invalid } from "../http/errors.ts";
import type { OllamaChatBody, OllamaGenerateBody, OllamaShared } from "./request-schemas.ts";

type ChatMessage = ChatBody["messages"][number];
type Message = NonNullable<OllamaChatBody["messages"]>[number];

/** @throws {ApiError} 400 for what a chat cannot have */
export function chatOf(body: OllamaChatBody): ChatBody {
  return {
    ...sharedOf(body),
    ...chatFieldsOf(body),
    messages: messagesOf(body.messages ?? []),
    tools: body.tools?.map(({ type, function: { name, description, parameters } }) => ({
      type,
      function: { name, description, parameters },
    })),
  };
}

/** Makes a chat of a prompt and a system text. */
export function chatOfPrompt(body: OllamaGenerateBody): ChatBody {
  const system: readonly ChatMessage[] = body.system ? [{ role: "system", content: body.system }] : [];
  const messages = [...system, { role: "user" as const, content: body.prompt ?? "" }];
  return { ...sharedOf(body), ...chatFieldsOf(body), messages };
}

/** Makes a continuation of a prompt, which the template is left out of. */
export function completionOf(body: OllamaGenerateBody): CompletionBody {
  const { num_predict: numPredict } = body.options ?? {};
  return {
    ...sharedOf(body),
    prompt: body.prompt ?? "",
    // Without a limit, up to the end of the context.
    max_tokens: limitOf(numPredict) ?? Number.MAX_SAFE_INTEGER,
    ...(body.format ? { structured_outputs: structureOf(body.format) } : {}),
  };
}

function structureOf(format: NonNullable<OllamaShared["format"]>): CompletionBody["structured_outputs"] {
  if (format === "") return undefined;
  return format === "json" ? { json_object: true } : { json: format };
}

type SharedFields = Pick<
  ChatBody & CompletionBody,
  | "model"
  | "stream"
  | "temperature"
  | "top_p"
  | "top_k"
  | "min_p"
  | "seed"
  | "stop"
  | "repetition_penalty"
  | "presence_penalty"
  | "frequency_penalty"
  | "read_me"
>;

function sharedOf({ model, stream, options }: OllamaShared): SharedFields {
  return {
    model,
    stream: stream ?? true,
    temperature: options?.temperature,
    top_p: options?.top_p,
    top_k: options?.top_k,
    min_p: options?.min_p,
    seed: options?.seed === -1 ? undefined : options?.seed,
    stop: options?.stop,
    repetition_penalty: options?.repeat_penalty,
    presence_penalty: options?.presence_penalty,
    frequency_penalty: options?.frequency_penalty,
    read_me: { include: ["timings"] },
  };
}

function limitOf(numPredict: number | null | undefined): number | undefined {
  if (numPredict === 0) throw invalid("options.num_predict", "expected at least one token, or a negative number");
  return numPredict == null || numPredict < 0 ? undefined : numPredict;
}

type ChatFields = Pick<
  ChatBody,
  "max_completion_tokens" | "response_format" | "reasoning_effort" | "chat_template_kwargs"
>;

function chatFieldsOf({ format, think, options }: OllamaShared): ChatFields {
  return {
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
        ...(calls.length === 0 ? {} : { tool_calls: calls.map((call, place) => chatCall(call, ids[place] ?? "")) }),
      };
    }
    if (role !== "tool") return { role, content: content ?? "" };
    const id = message.tool_call_id ?? ids[0];
    if (id === undefined) throw invalid(`messages[${index}]`, "expected a result of a tool that was called before");
    ids = ids.filter((other) => other !== id);
    return { role, content: content ?? "", tool_call_id: id, name: message.tool_name };
  });
}

type Call = NonNullable<Message["tool_calls"]>[number];

function chatCall({ function: { name, arguments: args } }: Call, id: string) {
  return { id, type: "function" as const, function: { name, arguments: JSON.stringify(args) } };
}
