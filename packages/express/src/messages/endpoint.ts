// `POST /v1/messages` and `POST /v1/messages/count_tokens`, in the shape of Anthropic's API: requests become chats.

import { randomUUID } from "node:crypto";
import { chatApi, type ChatChoice, chatPrompt } from "../api/chat.ts";
import { checkContinued } from "../api/structured-output.ts";
import type { RequestParts } from "../api/request-scope.ts";
import { answerLight } from "../api/other-routes.ts";
import { type ChatBody, without } from "../api/request-schemas.ts";
import type { OpenGeneration } from "../api/serve-generation.ts";
import type { Step } from "../http/types.ts";
import { invalid, renameParams, unsupported } from "../http/errors.ts";
import { localsOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { MessagesFormat } from "./format.ts";
import type { CountTokensBody, MessagesBody } from "./schemas.ts";

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

/** Versions of the API. Their answers have the same shape here. */
const VERSIONS = ["2023-06-01", "2026-10-21"] as const;

/** Refuses clients of unknown versions of Anthropic's API, on any of its paths. */
export const checkVersion: Step = (request, _response, next) => {
  const version = request.get("anthropic-version");
  const isKnown = version === undefined || VERSIONS.some((known) => known === version);
  next(isKnown ? undefined : invalid("anthropic-version", `expected ${VERSIONS.join(" or ")}`));
};

/** Counts the tokens of the prompt that a request to `/v1/messages` would have. */
export async function countTokens(parts: RequestParts, body: CountTokensBody): Promise<void> {
  const chat: ChatBody = { model: body.model, ...promptFieldsOf(body) };
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

/** Fields that a chat has under another name, or not at all. */
const OWN_FIELDS = [
  "messages",
  "system",
  "tools",
  "tool_choice",
  "thinking",
  "output_config",
  "cache_control",
  "stop_sequences",
  "metadata",
  "service_tier",
  "container",
  "context_management",
  "mcp_servers",
] as const satisfies readonly (keyof MessagesBody)[];

/** Fields of a chat that decide on its prompt. */
type PromptFields = Pick<
  ChatBody,
  | "messages"
  | "tools"
  | "tool_choice"
  | "parallel_tool_calls"
  | "response_format"
  | "reasoning_effort"
  | "thinking_token_budget"
  | "chat_template_kwargs"
  | "continue_final_message"
>;

/** @throws {ApiError} 400 for what a chat cannot have */
function chatBodyOf(body: MessagesBody): ChatBody {
  const { thinking, max_tokens: maxTokens } = body;
  if (thinking?.type === "enabled" && thinking.budget_tokens >= maxTokens) {
    throw invalid("thinking.budget_tokens", `expected less than \`max_tokens\`, ${maxTokens}`);
  }
  return {
    ...without(body, OWN_FIELDS),
    ...promptFieldsOf(body),
    stop: body.stop_sequences,
    metadata: body.metadata?.user_id == null ? undefined : { user_id: body.metadata.user_id.slice(0, 512) },
  };
}

/**
 * Returns what decides on the prompt. An answer goes on with a last message of the assistant.
 * @throws {ApiError} 400
 */
function promptFieldsOf(body: CountTokensBody): PromptFields {
  const { messages, tools, tool_choice: choice, thinking, output_config: config } = body;
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
    chat_template_kwargs: templateVariables(body),
  };
}

/** Asks templates for reasoning where the request has no budget and no effort. */
function templateVariables({
  thinking,
  chat_template_kwargs: own,
}: CountTokensBody): CountTokensBody["chat_template_kwargs"] {
  return thinking?.type === "adaptive" ? { enable_thinking: true, thinking: true, ...own } : own;
}

function toolChoiceOf(choice: MessagesBody["tool_choice"]): ChatBody["tool_choice"] {
  if (choice?.type === "tool") return { type: "function", function: { name: choice.name } };
  return choice?.type === "any" ? "required" : choice?.type;
}

function systemOf({ system }: CountTokensBody): ChatMessages {
  return system == null || system.length === 0 ? [] : [{ role: "system", content: textOf(system) }];
}

function chatMessages(message: Message, index: number): ChatMessages {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: textOf(message.content) }];
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
      const text = result == null ? "" : textOf(result);
      // Chat templates have no place for it.
      return { role: "tool" as const, tool_call_id: id, content: isError ? `Error: ${text}` : text };
    }),
    ...(texts.length > 0 ? [{ role: "user" as const, content: textOf(texts) }] : []),
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
    content: textOf(texts),
    ...(thoughts.length > 0 ? { reasoning_content: thoughts.map((block) => block.thinking).join("\n") } : {}),
    ...(calls.length > 0 ? { tool_calls: calls.map(callOf) } : {}),
  };
}

function callOf({ id, name, input }: { readonly id: string; readonly name: string; readonly input: object }) {
  return { id, type: "function" as const, function: { name, arguments: JSON.stringify(input) } };
}

function textOf(content: string | readonly { readonly text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("\n");
}

function empty(index: number): Error {
  return invalid(`messages[${index}].content`, "expected at least one block");
}
