// Chat completions: from a body to the engine's input, and from pieces of the answer to choices with reasoning, content
// and tool calls.

import { createHash, randomUUID } from "node:crypto";
import {
  type ChatPrompt,
  type Engine,
  type EngineInfo,
  type FinishReason,
  recommendedMaxTokens,
  type SamplingDefaults,
} from "@readme-moe/core";
import type { Grammars } from "@readme-moe/grammar";
import { engineError, invalid, unsupported } from "../http/errors.ts";
import type { AnswerSplitter } from "../reasoning/reasoning-parser.ts";
import { type ChatReasoning, openReasoning, reasoningBudget } from "../reasoning/reasoning.ts";
import {
  joinToolCalls,
  type ToolCallDelta,
  type ToolCallParser,
  type WholeToolCall,
} from "../tools/tool-call-parser.ts";
import { constrainCalls, presentTools, templateMessages, usableTools } from "../tools/tools.ts";
import { JsonList } from "../http/reply.ts";
import type { RequestScope } from "./request-scope.ts";
import {
  checkConstrained,
  checkContinued,
  compileOutput,
  joinedText,
  openGrammars,
  structuredOutput,
  withFinalText,
} from "./structured-output.ts";
import {
  type AnswerShape,
  type ChoiceCollector,
  type ChoiceRoutes,
  type GenerationApi,
  type GenerationInput,
  generationSettings,
  type GenerationSettings,
  type Piece,
  routesOf,
  textTokens,
} from "./generation.ts";
import { chatBody, type ChatBody } from "./request-schemas.ts";
import type { ChatLogprobs } from "./answer-schemas.ts";
import { chatLogprobs } from "./logprobs.ts";

/**
 * Sampling parameters of chats that name no temperature, with a model whose files name none. Small models of four bits
 * lose their thread at temperature 1, and coding agents send none: docs/how-to/choose-sampling.md.
 */
const SAMPLING_FALLBACKS: SamplingDefaults = { temperature: 0.7, topK: 20, topP: 0.8 };

export const chatApi: GenerationApi<ChatBody, ChatChoice> = {
  schema: chatBody,
  fallbacks: (temperature) => (temperature === undefined ? SAMPLING_FALLBACKS : {}),
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
  prepare: (scope, settings) => prepareChat(scope, settings, scope.body.messages),
};

/**
 * Prepares the answer to a chat.
 *
 * @param sent - messages, which may be fewer than those of the body
 * @throws {ApiError} 400
 */
export async function prepareChat(
  scope: RequestScope<ChatBody>,
  { id, includes, params }: GenerationSettings,
  sent: ChatBody["messages"],
): Promise<GenerationInput & { readonly shape: AnswerShape<ChatChoice> }> {
  const { body, engine, grammarClient } = scope;
  const grammarsFor = (param: string): Promise<Grammars> => openGrammars(param, () => scope.grammars());
  try {
    const prompt = chatPrompt(body, sent, { info: engine.info, maxTokens: params.maxTokens });
    const { constraint, constrainedBy, newParser: newCallParser } = await constrainAnswer(scope, grammarsFor);
    const newId = partIds(id);
    const newParser = newCallParser && ((): ToolCallParser => newCallParser(() => newId("call", 24)));
    const { budgetTokens } = reasoningBudget(body, params.maxTokens);
    const { signal } = grammarClient;
    const reasoning = await openReasoning(engine, { prompt, budgetTokens, constraint, signal });
    const logprobs = topLogprobsOf(body);
    return {
      prompts: [prompt],
      newProcessor: reasoning.newProcessor,
      constrainedBy,
      prediction: body.prediction ? joinedText(body.prediction.content) : undefined,
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
  const variables = info.reasoningForm
    ? reasoningBudget(body, maxTokens, info.reasoningForm).template
    : body.chat_template_kwargs;
  return { messages, template: { ...variables, ...template, ...endOf(body) } };
}

function endOf(body: ChatBody): ChatPrompt["template"] {
  const { continue_final_message: continueFinalMessage, add_generation_prompt: addGenerationPrompt } = body;
  if (continueFinalMessage) return { continueFinalMessage };
  return addGenerationPrompt === false ? { addGenerationPrompt } : {};
}

function topLogprobsOf(body: ChatBody): number | undefined {
  return body.logprobs ? (body.top_logprobs ?? 0) : undefined;
}

function checkCombinations(body: ChatBody): void {
  const { callable } = usableTools(body);
  const output = structuredOutput(body);
  if (callable.length > 0 && output) {
    const { param } = output;
    const name = param.startsWith("response_format") ? "response_format" : param;
    throw unsupported(name, `'${name}' is not supported beside \`tools\` that may be called`);
  }
  const constraining = callable.length > 0 ? "tools" : output?.param.replace(/^(response_format).*/, "$1");
  if (constraining !== undefined) checkConstrained(body, constraining);
}

async function constrainAnswer(
  { body, engine, serving, grammarClient }: RequestScope<ChatBody>,
  grammarsFor: (param: string) => Promise<Grammars>,
): Promise<Awaited<ReturnType<typeof constrainCalls>> & { readonly constrainedBy?: string }> {
  const output = structuredOutput(body);
  if (!output) {
    const { toolsStrict } = serving;
    const bound = await constrainCalls(body, { ...engine.info, toolsStrict }, async (answers) =>
      (await grammarsFor("tools")).tagged(answers, grammarClient),
    );
    return bound.constraint ? { ...bound, constrainedBy: "tools" } : bound;
  }
  const { param } = output;
  const grammars = await grammarsFor(param.replace(/^(response_format).*/, "$1"));
  return {
    constraint: await compileOutput(output, grammars, grammarClient),
    constrainedBy: param,
    newParser: undefined,
  };
}

interface ChatDelta {
  readonly role?: "assistant";
  readonly reasoning_content?: string;
  readonly content?: string;
  readonly tool_calls?: readonly ToolCallDelta[];
}

export interface ChatChoice extends ChoiceRoutes {
  readonly index: number;
  readonly delta: ChatDelta;
  readonly logprobs: ChatLogprobs | null;
  readonly finish_reason: FinishReason | "tool_calls" | null;
}

interface ChatShapeOptions {
  readonly engine: Engine;
  /** Number of most likely tokens per token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Creates the parser that takes tool calls out of a choice's text. @default the text is content */
  readonly newParser: (() => ToolCallParser) | undefined;
  readonly reasoning: Pick<ChatReasoning, "newParser" | "endId">;
}

interface ChoiceParsers {
  readonly calls: ToolCallParser | undefined;
  readonly reasoning: AnswerSplitter | undefined;
}

export function chatShape(options: ChatShapeOptions): AnswerShape<ChatChoice> {
  const { engine, logprobs, includesRoutes, newParser, reasoning } = options;
  const parsers = new Map<number, ChoiceParsers>();
  /** Choices that have ended, some of them because the rest does not count. */
  const ended = new Set<number>();
  let isAnyOver = false;
  let reasoningTokens = 0;
  return {
    objects: { whole: "chat.completion", chunk: "chat.completion.chunk" },
    async render(piece) {
      const { index, finishReason } = piece;
      if (ended.has(index)) return [];
      const known = parsers.get(index);
      const own = known ?? { calls: newParser?.(), reasoning: reasoning.newParser?.() };
      parsers.set(index, own);
      const wasReasoning = own.reasoning?.isReasoning ?? false;
      const deltas = deltasOf(piece, own);
      if (wasReasoning || own.reasoning?.isReasoning || deltas.some((delta) => delta.reasoning_content !== undefined)) {
        reasoningTokens += tokensUntil(piece, reasoning.endId);
      }
      const tokens = textTokens(piece);
      const hasLogprobs = logprobs !== undefined && tokens.length > 0;
      const ofTokens = hasLogprobs ? await chatLogprobs(engine, tokens, logprobs) : null;
      const routes = routesOf(piece, includesRoutes);
      if (deltas.length === 0 && (ofTokens || routes.read_me)) deltas.push({ content: "" });
      const choice = (delta: ChatDelta): ChatChoice => ({ index, delta, logprobs: null, finish_reason: null });
      const choices = deltas.map((delta, at) =>
        at === 0 ? { ...choice(delta), logprobs: ofTokens, ...routes } : choice(delta),
      );
      if (!known) choices.unshift(choice({ role: "assistant", content: "" }));
      const isOver = own.calls?.isOver ?? false;
      if (finishReason || isOver) {
        ended.add(index);
        isAnyOver ||= isOver;
        choices.push({
          ...choice({}),
          finish_reason: own.calls?.calledTools ? "tool_calls" : (finishReason ?? "stop"),
        });
      }
      return choices;
    },
    collect: (index) => collectChat(index, options),
    isOver: (numChoices) => isAnyOver && ended.size === numChoices,
    ...(reasoning.newParser ? { reasoningTokens: () => reasoningTokens } : {}),
  };
}

/** Counts a piece's tokens up to the end of reasoning; all of them where it is not in the piece. */
function tokensUntil({ tokens }: Piece, endId: number | undefined): number {
  const end = tokens.findIndex(({ id }) => id === endId);
  return end === -1 ? tokens.length : end + 1;
}

function deltasOf({ text, finishReason }: Piece, { calls, reasoning }: ChoiceParsers): ChatDelta[] {
  const split = reasoning?.push(text) ?? { reasoning: "", content: text };
  const parts = finishReason && reasoning ? [split, reasoning.end()] : [split];
  const thought = parts.map((part) => part.reasoning).join("");
  const content = parts.map((part) => part.content).join("");
  const thoughts: ChatDelta[] = thought === "" ? [] : [{ reasoning_content: thought }];
  if (!calls) return content === "" ? thoughts : [...thoughts, { content }];
  const parsed = [calls.push(content), ...(finishReason ? [calls.end()] : [])];
  const deltas = parsed.flatMap((part): ChatDelta[] => [
    ...(part.content === "" ? [] : [{ content: part.content }]),
    ...(part.toolCalls.length === 0 ? [] : [{ tool_calls: part.toolCalls }]),
  ]);
  return [...thoughts, ...deltas];
}

function collectChat(
  index: number,
  { logprobs, includesRoutes }: Pick<ChatShapeOptions, "logprobs" | "includesRoutes">,
): ChoiceCollector<ChatChoice> {
  let [text, thought] = ["", ""];
  let finishReason: ChatChoice["finish_reason"] = null;
  const calls: WholeToolCall[] = [];
  const content = new JsonList<ChatLogprobs["content"][number]>();
  const routes: (number | null)[] = [];
  return {
    get keptBytes() {
      return content.bytes;
    },
    add({ delta, logprobs: own, finish_reason: reason, read_me: fields }) {
      text += delta.content ?? "";
      thought += delta.reasoning_content ?? "";
      joinToolCalls(delta.tool_calls ?? [], calls);
      content.push(...(own?.content ?? []));
      routes.push(...(fields?.routes ?? []));
      finishReason = reason;
    },
    whole: () => ({
      index,
      message: {
        role: "assistant",
        content: text === "" && calls.length > 0 ? null : text,
        ...(thought === "" ? {} : { reasoning_content: thought }),
        refusal: null,
        ...(calls.length > 0 ? { tool_calls: calls } : {}),
      },
      logprobs: logprobs === undefined ? null : { content, refusal: null },
      finish_reason: finishReason,
      ...(includesRoutes ? { read_me: { routes } } : {}),
    }),
  };
}

/**
 * Makes the ids of an answer's parts, such as its tool calls, from its own id: a server that goes on with the answer of
 * another one gives the same ids.
 */
export function partIds(answerId: string): (prefix: string, length?: number) => string {
  let count = 0;
  return (prefix, length = 32) => {
    const hash = createHash("sha256").update(`${prefix}/${answerId}/${count++}`).digest("hex");
    return `${prefix}_${hash.slice(0, length)}`;
  };
}
