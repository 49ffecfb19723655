// `POST /v1/responses`, a chat whose conversation the server may keep, and the routes that read, remove and cancel kept
// responses.

import { ReadMeError } from "@readme-moe/core";
import { chatApi, type ChatChoice, chatPrompt, prepareChat } from "../api/chat.ts";
import type { GenerationSettings } from "../api/generation.ts";
import { type ReadParts, sendRead } from "../api/other-routes.ts";
import { type ChatBody, chatFieldsOf } from "../api/request-schemas.ts";
import { joinedText } from "../api/structured-output.ts";
import type { RequestScope } from "../api/request-scope.ts";
import type { OpenGeneration } from "../api/serve-generation.ts";
import { renameParams, unsupported } from "../http/errors.ts";
import { listPage, pageOf } from "../http/pages.ts";
import { sendJson } from "../http/reply.ts";
import { bodyBytesOf, clientName, idOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import {
  cancelled,
  conversationOf,
  fittingMessages,
  itemNotFound,
  notRunning,
  responseNotFound,
} from "./conversation.ts";
import { newItemId, ResponsesFormat } from "./format.ts";
import type { ConversationItem, ResponseAnswer, ResponsesBody } from "./schemas.ts";
import type { ResponseStore } from "./store.ts";

/** Parameters of a chat that this API names otherwise. */
const PARAMS: Readonly<Record<string, string>> = {
  messages: "input",
  max_completion_tokens: "max_output_tokens",
  "response_format.json_schema.schema": "text.format.schema",
  response_format: "text.format",
  logprobs: "include",
  reasoning_effort: "reasoning.effort",
};

interface Stored {
  readonly store: ResponseStore;
}

export const openResponse: OpenGeneration<ResponsesBody, ChatBody, ChatChoice, Stored> = (body, parts) => {
  const { serving, store, request, response, id: givenId } = parts;
  const client = clientName(request, response);
  const sources = { store, client, bodyBytes: bodyBytesOf(request, response), maxBodyBytes: serving.maxBodyBytes };
  const { history, input, keptBytes } = conversationOf(body, sources);
  const id = givenId ?? newItemId("resp");
  const isKept = body.store !== false;
  const generating = store.begin(id, client);
  return {
    ...chatApi,
    id,
    signal: generating.signal,
    keptBytes,
    keepsStream: true,
    body: chatBodyOf(body, [...history.map(({ item }) => item), ...input]),
    prepare: async (scope, settings) => prepareChat(scope, settings, await messagesFor(body, scope, settings)),
    format(scope, settings) {
      const format = new ResponsesFormat({
        begun: begunResponse(body, id, { scope, settings }),
        summarizes: (body.reasoning?.summary ?? body.reasoning?.generate_summary) != null,
        hasLogprobs: scope.body.logprobs ?? false,
        onEnd: (ended) => {
          if (isKept) store.keep(client, { response: ended, history, input, output: ended.output });
        },
      });
      generating.watch(() => format.snapshot);
      return format;
    },
    translate: (error) => renameParams(error, PARAMS),
    close: generating.end,
  };
};

async function messagesFor(
  { truncation, max_output_tokens: maxOutputTokens }: ResponsesBody,
  { body, engine, signal, serving }: RequestScope<ChatBody>,
  { params }: GenerationSettings,
): Promise<ChatBody["messages"]> {
  if (truncation !== "auto") return body.messages;
  const { contextTokens } = engine.info;
  const reserve = Math.min(maxOutputTokens ?? Math.ceil(contextTokens / 4), Math.ceil(contextTokens / 2));
  const maxTokens = contextTokens - reserve;
  const tokensOf = async (messages: ChatBody["messages"]): Promise<number> => {
    const prompt = chatPrompt(body, messages, { info: engine.info, maxTokens: params.maxTokens });
    try {
      const { length } = await engine.tokenize(prompt, { maxTokens, signal });
      return length;
    } catch (error) {
      if (error instanceof ReadMeError && error.code === "ERR_CONTEXT_LENGTH") return Infinity;
      throw error;
    }
  };
  const maxWork = Math.max(serving.maxBodyBytes, LIMITS.bodyBytes.value);
  // Templates write at least two tokens for a message.
  return fittingMessages(body.messages, tokensOf, { maxTokens, maxWork, likelyMessages: contextTokens / 2 });
}

function begunResponse(
  body: ResponsesBody,
  id: string,
  { scope, settings }: { readonly scope: RequestScope<ChatBody>; readonly settings: GenerationSettings },
): ResponseAnswer {
  const { body: chat, model } = scope;
  const format = body.text?.format ?? { type: "text" };
  return {
    id,
    object: "response",
    created_at: settings.created,
    completed_at: null,
    status: "in_progress",
    background: false,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: chat.max_completion_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: body.previous_response_id ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    reasoning: { effort: body.reasoning?.effort ?? null, summary: body.reasoning?.summary ?? null },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: "default",
    store: body.store ?? true,
    temperature: chat.temperature ?? null,
    text: { format, verbosity: "medium" },
    tool_choice: body.tool_choice ?? "auto",
    tools: (body.tools ?? []).map((tool) => ({ ...tool, strict: tool.strict ?? null })),
    top_logprobs: settings.params.logprobs === undefined ? 0 : (body.top_logprobs ?? 0),
    top_p: chat.top_p ?? null,
    truncation: body.truncation ?? "disabled",
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
  };
}

type ChatMessages = ChatBody["messages"];
type AssistantMessage = Extract<ChatMessages[number], { role: "assistant" }>;
type ToolCalls = NonNullable<AssistantMessage["tool_calls"]>;

/** Returns the body of the chat. @param items - the whole conversation, earlier responses included */
function chatBodyOf(body: ResponsesBody, items: readonly ConversationItem[]): ChatBody {
  const { text, tools, tool_choice: choice, reasoning, top_logprobs: topLogprobs } = body;
  const hasLogprobs = body.include?.includes("message.output_text.logprobs") ?? false;
  return {
    ...chatFieldsOf(body),
    messages: [...instructionsOf(body), ...messagesOf(items)],
    max_completion_tokens: body.max_output_tokens,
    logprobs: hasLogprobs || (topLogprobs ?? 0) > 0,
    top_logprobs: topLogprobs,
    tools: tools?.map(({ type, ...definition }) => ({ type, function: definition })),
    tool_choice: typeof choice === "object" && choice ? { type: choice.type, function: { name: choice.name } } : choice,
    response_format: formatOf(text),
    reasoning_effort: reasoning?.effort,
  };
}

function instructionsOf({ instructions }: ResponsesBody): ChatMessages {
  return instructions == null ? [] : [{ role: "system", content: instructions }];
}

function formatOf(text: ResponsesBody["text"]): ChatBody["response_format"] {
  const format = text?.format;
  if (format?.type !== "json_schema") return format;
  const { type, ...schema } = format;
  return { type, json_schema: schema };
}

/**
 * Returns the items as messages. Reasoning, text and calls that follow one another are one message of the assistant.
 */
function messagesOf(items: readonly ConversationItem[]): ChatMessages {
  const messages: ChatMessages = [];
  /** Message of the assistant that further items belong to. */
  let open: AssistantMessage | undefined;
  const assistant = (): AssistantMessage => {
    if (!open) messages.push((open = { role: "assistant" }));
    return open;
  };
  for (const item of items) {
    switch (item.type) {
      case "reasoning":
        // Reasoning begins a turn.
        if (open?.content != null || open?.tool_calls) open = undefined;
        assistant().reasoning_content = joined(open?.reasoning_content, reasoningText(item));
        break;
      case "function_call": {
        const calls: ToolCalls = (assistant().tool_calls ??= []);
        calls.push({ id: item.call_id, type: "function", function: { name: item.name, arguments: item.arguments } });
        break;
      }
      case "function_call_output":
        open = undefined;
        messages.push({ role: "tool", tool_call_id: item.call_id, content: joinedText(item.output, "\n") });
        break;
      case "message": {
        const { role } = item;
        if (role === "assistant") {
          if (open?.content != null || open?.tool_calls) open = undefined;
          assistant().content = joinedText(item.content, "\n");
        } else {
          open = undefined;
          messages.push({ role, content: joinedText(item.content, "\n") });
        }
        break;
      }
      default:
        throw new TypeError(`Unknown item: ${JSON.stringify(item satisfies never)}`);
    }
  }
  // Reasoning alone, whose answer was cut off, is a turn without text.
  for (const message of messages) {
    if (message.role === "assistant" && message.content == null && !message.tool_calls) message.content = "";
  }
  return messages;
}

function reasoningText({ content, summary }: Extract<ConversationItem, { type: "reasoning" }>): string {
  const parts = content && content.length > 0 ? content : summary;
  return parts.map(({ text }) => text).join("\n");
}

function joined(before: string | null | undefined, text: string): string {
  return before == null || before === "" ? text : `${before}\n${text}`;
}

type StoredRequest = ReadParts & Stored;

export function showResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  if (parts.request.query["stream"] === "true") throw unsupported("stream");
  return sendRead(parts, () => {
    const found = store.get(id, client)?.json ?? store.running(id, client);
    if (!found) throw responseNotFound(id);
    return found;
  });
}

export function deleteResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  if (!store.delete(id, client)) throw responseNotFound(id);
  return sendJson(parts.response, { id, object: "response", deleted: true }, parts.serving);
}

/** Ends a response that is being generated, and answers with what it has so far. */
export function cancelResponse({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  const running = store.running(id, client);
  if (running && store.cancel(id, client, cancelled())) {
    return sendJson(parts.response, { ...running, status: "cancelled" }, parts.serving);
  }
  throw store.get(id, client) ? notRunning(id) : responseNotFound(id);
}

/** Lists the items of a response's request, the last one first unless `order` is `asc`. */
export function listInputItems({ store, ...parts }: StoredRequest): Promise<void> {
  const { id, client } = named(parts);
  return sendRead(parts, () => {
    const kept = store.get(id, client);
    if (!kept) throw responseNotFound(id);
    const items = [...kept.history, ...kept.input].map(({ item }) => item);
    return listPage(items, pageOf(parts.request, { most: 100, usual: 20 }), itemNotFound);
  });
}

function named({ request, response }: ReadParts): { readonly id: string; readonly client: string } {
  return { id: idOf(request), client: clientName(request, response) };
}
