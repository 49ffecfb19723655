import { randomUUID } from "node:crypto";
import type { ChatMessage } from "@readme-moe/core";
import type { GenerationPlan } from "../generation/plan.ts";
import { checkExpert, completionLimit, invalid, samplingParams } from "../sampling.ts";
import type { ChatBody } from "../schemas/chat-body.ts";
import { unsupported } from "../schemas/read-body.ts";
import type { Lease } from "../../edge/served-models.ts";

/** @throws {ApiError} 400, on what does not go together, or not with this model */
export function planChat(body: ChatBody, { engine, name }: Pick<Lease, "engine" | "name">): GenerationPlan {
  const { info } = engine;
  if (!info.hasChatTemplate) {
    throw unsupported("messages", `The model '${name}' has no chat template; send a prompt to /v1/completions`);
  }
  const wantsLogprobs = body.logprobs ?? false;
  if (!wantsLogprobs && body.top_logprobs) throw invalid("top_logprobs", "expected `logprobs` to be true beside it");
  const wanted = body.max_completion_tokens ?? body.max_tokens ?? undefined;
  const include = body.read_me?.include ?? [];
  return {
    id: `chatcmpl-${randomUUID()}`,
    model: name,
    engine,
    // What stands in them may yet change with the tools that the model is told of.
    prompts: [{ messages: templateMessages(body.messages), template: body.chat_template_kwargs ?? {} }],
    promptParam: "messages",
    params: {
      ...samplingParams(body, info),
      // One more than nothing, so that the chosen token's text comes along.
      logprobs: wantsLogprobs ? Math.max(1, body.top_logprobs ?? 0) : undefined,
      maxTokens: completionLimit(wanted, info.contextTokens, body, info),
    },
    expert: checkExpert(body, info),
    priority: body.read_me?.priority ?? 0,
    includes: {
      routes: include.includes("routes"),
      timings: include.includes("timings"),
      usage: body.stream_options?.include_usage ?? false,
    },
  };
}

/** Messages as templates know them. */
export function templateMessages(messages: ChatBody["messages"]): readonly ChatMessage[] {
  return messages.map((message, index) => {
    const { role, content, ...rest } = message;
    const fields = Object.fromEntries(
      Object.entries(rest).filter(([, value]) => value !== null && value !== undefined),
    );
    const calls = "tool_calls" in fields ? (fields["tool_calls"] as readonly unknown[]) : [];
    if ((content === null || content === undefined) && calls.length === 0) {
      throw invalid(`messages[${index}].content`, "expected text, or tool calls beside it");
    }
    return {
      ...fields,
      // Templates know no other name for it.
      role: role === "developer" ? "system" : role,
      ...(content === null || content === undefined ? {} : { content }),
    };
  });
}
