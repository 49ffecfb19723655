import { engineError } from "../../http/errors.ts";
import { chatBody, type ChatBody } from "../schemas/chat-body.ts";
import type { GenerationApi } from "../serve-generation.ts";
import { bindAnswer, checkBinding } from "./bind-answer.ts";
import { chatShape, type ChatChoice } from "./chat-shape.ts";
import { planChat, templateMessages } from "./plan-chat.ts";

export const chatApi: GenerationApi<ChatBody, ChatChoice> = {
  endpoint: "/v1/chat/completions",
  schema: chatBody,
  plan(body, lease) {
    checkBinding(body);
    return planChat(body, lease);
  },
  async prepare(plan, body, grammars, asker) {
    const { engine, includes } = plan;
    try {
      const { messages, template, constraint, newParser } = await bindAnswer(
        body,
        templateMessages(body.messages),
        engine.info,
        { grammars, asker },
      );
      return {
        plan: {
          ...plan,
          prompts: [{ messages, template: { ...body.chat_template_kwargs, ...template } }],
          processLogits: constraint?.processor({ signal: asker.signal }),
        },
        shape: chatShape({
          engine,
          logprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
          includesRoutes: includes.routes,
          newParser,
        }),
      };
    } catch (error) {
      throw engineError(error, "messages", engine.info);
    }
  },
};
