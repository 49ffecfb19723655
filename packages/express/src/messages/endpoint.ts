// `POST /v1/messages` and `POST /v1/messages/count_tokens`, in the shape of Anthropic's API.

import { randomUUID } from "node:crypto";
import { chatApi, chatPrompt } from "../api/chat.ts";
import type { ChatChoice } from "../api/chat-shape.ts";
import { checkContinued } from "../api/final-message.ts";
import { checkBody } from "../api/check-body.ts";
import { Exchange, type Serving } from "../api/exchange.ts";
import { answerLight } from "../api/other-routes.ts";
import type { ChatBody } from "../api/request-schemas.ts";
import type { GenerationEndpoint } from "../api/serve-generation.ts";
import type { Incoming, Reply } from "../http/types.ts";
import { renameParams, unsupported } from "../http/errors.ts";
import { clientSignal, localsOf } from "../http/request.ts";
import { LIMITS } from "../limits.ts";
import { messagesErrorBody } from "./errors.ts";
import { MessagesFormat } from "./format.ts";
import { countTokensBody, messagesBody } from "./request-schemas.ts";
import { chatBodyOf, promptFieldsOf } from "./to-chat.ts";

/** Parameters of a chat that this API names otherwise. */
const PARAMS: Readonly<Record<string, string>> = {
  max_completion_tokens: "max_tokens",
  "response_format.json_schema.schema": "output_config.format.schema",
  response_format: "output_config.format",
  stop: "stop_sequences",
  continue_final_message: "messages",
};

export const messagesEndpoint: GenerationEndpoint<ChatBody, ChatChoice> = {
  endpoint: "/v1/messages",
  api: chatApi,
  open(sent, { response, id: givenId }) {
    const body = checkBody(messagesBody, sent);
    const { requestId } = localsOf(response);
    const id = givenId ?? `msg_${randomUUID().replaceAll("-", "")}`;
    const { thinking } = body;
    const omitsThinking = thinking != null && "display" in thinking && thinking.display === "omitted";
    return {
      id,
      body: chatBodyOf(body),
      format: ({ model }) =>
        new MessagesFormat({
          id,
          model,
          omitsThinking,
          errorBody: (error) => messagesErrorBody(error, requestId),
        }),
      translate: (error) => renameParams(error, PARAMS),
    };
  },
};

/** Counts the tokens of the prompt that a request to `/v1/messages` would have. */
export async function countTokens(serving: Serving, request: Incoming, response: Reply): Promise<void> {
  const body = checkBody(countTokensBody, request.body);
  const chat: ChatBody = { model: body.model, ...promptFieldsOf(body) };
  checkContinued(chat);
  const parts = { serving, request, response, body: chat, signal: clientSignal(response) };
  await Exchange.run(parts, (exchange) =>
    answerLight(exchange, "messages", async ({ engine, signal, model }) => {
      if (!engine.info.hasChatTemplate) {
        throw unsupported("messages", `The model '${model}' has no chat template; send a text to /tokenize`);
      }
      const { contextTokens } = engine.info;
      const prompt = chatPrompt(chat, chat.messages, { info: engine.info, maxTokens: contextTokens });
      const maxTokens = Math.max(LIMITS.tokenIds.value, contextTokens);
      return { input_tokens: (await engine.tokenize(prompt, { maxTokens, signal })).length };
    }),
  );
}
