// Chat completions: from a body to the engine's input.

import { randomUUID } from "node:crypto";
import { recommendedMaxTokens, type ChatPrompt, type EngineInfo } from "@readme-moe/core";
import type { Asker, Grammars } from "@readme-moe/grammar";
import { engineError, invalid, unsupported } from "../http/errors.ts";
import { openReasoning } from "../reasoning/open.ts";
import { reasoningWish } from "../reasoning/wish.ts";
import type { ToolCallParser } from "../tools/tool-call-parser.ts";
import { bindCalls, presentTools, templateMessages, usableTools } from "../tools/tools.ts";
import { chatShape, type ChatChoice } from "./chat-shape.ts";
import type { Exchange } from "./exchange.ts";
import { checkContinued, joinedText, withFinalText } from "./final-message.ts";
import {
  generationSettings,
  type AnswerShape,
  type GenerationApi,
  type GenerationInput,
  type GenerationSettings,
} from "./generation.ts";
import { partIds } from "./part-ids.ts";
import { chatBody, type ChatBody } from "./request-schemas.ts";
import { checkBound, compileOutput, openGrammars, structuredOutput } from "./structured-output.ts";

export const chatApi: GenerationApi<ChatBody, ChatChoice> = {
  schema: chatBody,
  settings(body, served) {
    const { info } = served.engine;
    checkCombinations(body);
    checkContinued(body);
    if (!info.hasChatTemplate) {
      throw unsupported(
        "messages",
        `The model '${served.model}' has no chat template; send a prompt to /v1/completions`,
      );
    }
    if (!body.logprobs && body.top_logprobs) throw invalid("top_logprobs", "expected `logprobs` to be true beside it");
    // Wrong messages are refused before admission.
    templateMessages(body.messages);
    return generationSettings(body, served, {
      id: `chatcmpl-${randomUUID()}`,
      promptParam: "messages",
      numPrompts: 1,
      maxTokens:
        body.max_completion_tokens ??
        body.max_tokens ??
        recommendedMaxTokens(info.samplingDefaults, body.min_tokens ?? 0) ??
        info.contextTokens,
      logprobs: topLogprobsOf(body),
    });
  },
  prepare: (exchange, settings) => prepareChat(exchange, settings, exchange.body.messages),
};

/**
 * Prepares the answer to a chat.
 *
 * @param sent - messages, which may be fewer than those of the body
 * @throws {ApiError} 400
 */
export async function prepareChat(
  exchange: Exchange<ChatBody>,
  { id, includes, params }: GenerationSettings,
  sent: ChatBody["messages"],
): Promise<GenerationInput & { readonly shape: AnswerShape<ChatChoice> }> {
  const { body, engine, asker } = exchange;
  const grammarsFor = (param: string): Promise<Grammars> => openGrammars(param, () => exchange.grammars());
  try {
    const prompt = chatPrompt(body, sent, { info: engine.info, maxTokens: params.maxTokens });
    const { constraint, boundBy, newParser: newCallParser } = await bindAnswer(body, grammarsFor, asker);
    const newId = partIds(id);
    const newParser = newCallParser && ((): ToolCallParser => newCallParser(() => newId("call", 24)));
    const { budgetTokens } = reasoningWish(body, params.maxTokens);
    const { signal } = asker;
    const reasoning = await openReasoning(engine, { prompt, budgetTokens, constraint, signal });
    const logprobs = topLogprobsOf(body);
    return {
      prompts: [prompt],
      newProcessor: reasoning.newProcessor,
      boundBy,
      prediction: predictionOf(body),
      shape: chatShape({ engine, logprobs, includesRoutes: includes.routes, newParser, reasoning }),
    };
  } catch (error) {
    throw engineError(error, "messages", engine.info);
  }
}

/** Returns the prompt of a chat: messages and tools, and the variables of the template. */
export function chatPrompt(
  body: ChatBody,
  sent: ChatBody["messages"],
  { info, maxTokens }: { readonly info: EngineInfo; readonly maxTokens: number },
): ChatPrompt {
  const { messages, template } = presentTools(body, templateMessages(withFinalText(body, sent)), info);
  // Templates of other models may give variables of these names another meaning.
  const variables = info.reasons ? reasoningWish(body, maxTokens).template : body.chat_template_kwargs;
  return { messages, template: { ...variables, ...template, ...endOf(body) } };
}

/** Returns the variables that decide on the end of the prompt. */
function endOf(body: ChatBody): ChatPrompt["template"] {
  const { continue_final_message: continueFinalMessage, add_generation_prompt: addGenerationPrompt } = body;
  if (continueFinalMessage) return { continueFinalMessage };
  return addGenerationPrompt === false ? { addGenerationPrompt } : {};
}

function predictionOf({ prediction }: ChatBody): string | undefined {
  if (!prediction) return undefined;
  return joinedText(prediction.content);
}

function topLogprobsOf(body: ChatBody): number | undefined {
  return body.logprobs ? (body.top_logprobs ?? 0) : undefined;
}

/** Checks which parameters exclude each other. @throws {ApiError} 400 */
function checkCombinations(body: ChatBody): void {
  const { callable } = usableTools(body);
  const output = structuredOutput(body);
  if (callable.length > 0 && output) {
    const { param } = output;
    const name = param.startsWith("response_format") ? "response_format" : param;
    throw unsupported(name, `'${name}' is not supported beside \`tools\` that may be called`);
  }
  const constraining = callable.length > 0 ? "tools" : output?.param.replace(/^(response_format).*/, "$1");
  if (constraining !== undefined) checkBound(body, constraining);
}

/** Constrains the answer to the format that was asked for, or to calls of the tools. */
async function bindAnswer(
  body: ChatBody,
  grammarsFor: (param: string) => Promise<Grammars>,
  asker: Asker,
): Promise<Awaited<ReturnType<typeof bindCalls>> & { readonly boundBy?: string }> {
  const output = structuredOutput(body);
  if (!output) {
    const bound = await bindCalls(body, async (answers) => (await grammarsFor("tools")).tagged(answers, asker));
    return bound.constraint ? { ...bound, boundBy: "tools" } : bound;
  }
  const { param } = output;
  const grammars = await grammarsFor(param.replace(/^(response_format).*/, "$1"));
  return { constraint: await compileOutput(output, grammars, asker), boundBy: param, newParser: undefined };
}
