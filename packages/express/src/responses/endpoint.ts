// `POST /v1/responses`: a chat whose conversation the server may keep.

import { ReadMeError } from "@readme-moe/core";
import { chatApi, chatPrompt, prepareChat } from "../api/chat.ts";
import type { ChatChoice } from "../api/chat-shape.ts";
import { checkBody } from "../api/check-body.ts";
import type { Exchange } from "../api/exchange.ts";
import type { GenerationSettings } from "../api/generation.ts";
import type { ChatBody } from "../api/request-schemas.ts";
import type { GenerationEndpoint } from "../api/serve-generation.ts";
import { renameParams } from "../http/errors.ts";
import { bodyBytesOf, clientName } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import type { ResponseAnswer } from "./answer-schemas.ts";
import { newItemId, ResponsesFormat } from "./format.ts";
import { conversationOf } from "./conversation.ts";
import { responsesBody, withItemTypes, type ResponsesBody } from "./request-schemas.ts";
import type { ResponseStore } from "./store.ts";
import { chatBodyOf } from "./to-chat.ts";
import { fittingMessages } from "./truncation.ts";

/** Parameters of a chat that this API names otherwise. */
const PARAMS: Readonly<Record<string, string>> = {
  messages: "input",
  max_completion_tokens: "max_output_tokens",
  "response_format.json_schema.schema": "text.format.schema",
  response_format: "text.format",
  logprobs: "include",
  reasoning_effort: "reasoning.effort",
};

/** Creates the endpoint over a store of responses. */
export function responsesEndpoint(store: ResponseStore): GenerationEndpoint<ChatBody, ChatChoice> {
  return {
    endpoint: "/v1/responses",
    api: chatApi,
    open(sent, { serving: { maxBodyBytes }, request, response, id: givenId }) {
      const client = clientName(request, response);
      const body = checkBody(responsesBody, withItemTypes(sent));
      const sources = { store, client, bodyBytes: bodyBytesOf(request, response), maxBodyBytes };
      const { history, input, keptBytes } = conversationOf(body, sources);
      const id = givenId ?? newItemId("resp");
      const isKept = body.store !== false;
      const generating = store.begin(id, client);
      return {
        id,
        signal: generating.signal,
        keptBytes,
        keepsStream: true,
        body: chatBodyOf(body, [...history.map(({ item }) => item), ...input]),
        prepare: async (exchange, settings) =>
          prepareChat(exchange, settings, await messagesFor(body, exchange, settings)),
        format(exchange, settings) {
          const format = new ResponsesFormat({
            begun: begunResponse(body, id, { exchange, settings }),
            summarizes: (body.reasoning?.summary ?? body.reasoning?.generate_summary) != null,
            hasLogprobs: exchange.body.logprobs ?? false,
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
    },
  };
}

/** Returns the messages of the chat: all, or those that the context has room for. */
async function messagesFor(
  { truncation, max_output_tokens: maxOutputTokens }: ResponsesBody,
  { body, engine, signal, serving }: Exchange<ChatBody>,
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
  { exchange, settings }: { readonly exchange: Exchange<ChatBody>; readonly settings: GenerationSettings },
): ResponseAnswer {
  const { body: chat, model } = exchange;
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
