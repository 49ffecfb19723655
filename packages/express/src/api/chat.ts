// Chat completions: from a body to the engine's input, and from pieces to choices.

import { randomUUID } from "node:crypto";
import type { Engine, FinishReason } from "@readme-moe/core";
import type { Asker, Constraint, Grammars, JsonSchema } from "@readme-moe/grammar";
import { engineError, invalid, unsupported } from "../http/errors.ts";
import { joinToolCalls, type ToolCallDelta, type ToolCallParser } from "../tools/tool-call-parser.ts";
import { bindCalls, presentTools, templateMessages, usableTools } from "../tools/tools.ts";
import type { ChatLogprobs } from "./answer-schemas.ts";
import {
  generationSettings,
  joinRoutes,
  routesOf,
  textTokens,
  type AnswerShape,
  type ChoiceRoutes,
  type GenerationApi,
  type Piece,
} from "./generation.ts";
import { chatLogprobs } from "./logprobs.ts";
import { chatBody, type ChatBody } from "./request-schemas.ts";

interface ChatDelta {
  readonly role?: "assistant";
  readonly content?: string;
  readonly tool_calls?: readonly ToolCallDelta[];
}

interface ChatChoice extends ChoiceRoutes {
  readonly index: number;
  readonly delta: ChatDelta;
  readonly logprobs: ChatLogprobs | null;
  readonly finish_reason: FinishReason | "tool_calls" | null;
}

export const chatApi: GenerationApi<ChatBody, ChatChoice> = {
  endpoint: "/v1/chat/completions",
  schema: chatBody,
  settings(body, served) {
    const { info } = served.engine;
    checkCombinations(body);
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
      maxTokens: body.max_completion_tokens ?? body.max_tokens ?? info.contextTokens,
      logprobs: topLogprobsOf(body),
    });
  },
  async prepare(exchange, { includes }) {
    const { body, engine, asker } = exchange;
    const grammarsFor = (param: string): Promise<Grammars> => openGrammars(param, () => exchange.grammars());
    try {
      const { messages, template } = presentTools(body, templateMessages(body.messages), engine.info);
      const { constraint, newParser } = await bindAnswer(body, grammarsFor, asker);
      return {
        prompts: [{ messages, template: { ...body.chat_template_kwargs, ...template } }],
        processLogits: constraint?.processor({ signal: asker.signal }),
        prediction: predictionOf(body),
        shape: chatShape({ engine, logprobs: topLogprobsOf(body), includesRoutes: includes.routes, newParser }),
      };
    } catch (error) {
      throw engineError(error, "messages", engine.info);
    }
  },
};

function predictionOf({ prediction }: ChatBody): string | undefined {
  if (!prediction) return undefined;
  const { content } = prediction;
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}

function topLogprobsOf(body: ChatBody): number | undefined {
  return body.logprobs ? (body.top_logprobs ?? 0) : undefined;
}

/** Checks which parameters exclude each other. @throws {ApiError} 400 */
function checkCombinations(body: ChatBody): void {
  const { callable } = usableTools(body);
  const hasFormat = body.response_format && body.response_format.type !== "text";
  if (callable.length > 0 && hasFormat) {
    throw unsupported("response_format", "'response_format' is not supported beside `tools` that may be called");
  }
  const constraining = callable.length > 0 ? "tools" : hasFormat ? "response_format" : undefined;
  if (constraining === undefined) return;
  // A constrained answer ends where its grammar ends.
  for (const param of ["ignore_eos", "min_tokens"] as const) {
    if (body[param]) throw unsupported(param, `'${param}' is not supported beside '${constraining}'`);
  }
}

/** Constrains the answer to the format that was asked for, or to calls of the tools. */
async function bindAnswer(
  body: ChatBody,
  grammarsFor: (param: string) => Promise<Grammars>,
  asker: Asker,
): ReturnType<typeof bindCalls> {
  const { response_format: format } = body;
  if (!format || format.type === "text") {
    return bindCalls(body, async (answers) => (await grammarsFor("tools")).tagged(answers, asker));
  }
  const constraint = await constraintOf(format, await grammarsFor("response_format"), asker);
  return { constraint, newParser: undefined };
}

/** @throws {ApiError} 400 naming the parameter, if the model has no end token */
async function openGrammars(param: string, open: () => Promise<Grammars>): Promise<Grammars> {
  try {
    return await open();
  } catch (error) {
    if (error instanceof TypeError) {
      throw invalid(param, "this model's answers cannot be constrained: it has no end token");
    }
    throw error;
  }
}

/**
 * Compiles a response format. Schemas constrain the answer whether or not they are `strict`.
 *
 * @returns `undefined` if any text is allowed
 * @throws {ApiError} 400, for a schema that is wrong or not supported
 * @throws {ReadMeError} as `Grammars.jsonSchema`
 */
export async function constraintOf(
  format: ChatBody["response_format"],
  grammars: Pick<Grammars, "jsonObject" | "jsonSchema">,
  asker: Asker = {},
): Promise<Constraint | undefined> {
  if (!format || format.type === "text") return undefined;
  if (format.type === "json_object") return grammars.jsonObject(asker);
  const schema: JsonSchema = format.json_schema.schema ?? true;
  try {
    return await grammars.jsonSchema(schema, asker);
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    throw invalid("response_format.json_schema.schema", error.message, error);
  }
}

interface ChatShapeOptions {
  readonly engine: Engine;
  /** Number of most likely tokens per token. @default no log-probabilities */
  readonly logprobs: number | undefined;
  readonly includesRoutes: boolean;
  /** Creates the parser that takes tool calls out of a choice's text. @default the text is content */
  readonly newParser: (() => ToolCallParser) | undefined;
}

function chatShape(options: ChatShapeOptions): AnswerShape<ChatChoice> {
  const { engine, logprobs, includesRoutes, newParser } = options;
  /** Parser of each choice that has begun, or `undefined` where all text is content. */
  const parsers = new Map<number, ToolCallParser | undefined>();
  return {
    objects: { whole: "chat.completion", chunk: "chat.completion.chunk" },
    async render(piece) {
      const { index, finishReason } = piece;
      const isFirst = !parsers.has(index);
      if (isFirst) parsers.set(index, newParser?.());
      const parser = parsers.get(index);
      const deltas = deltasOf(piece, parser);
      const tokens = textTokens(piece);
      const hasLogprobs = logprobs !== undefined && tokens.length > 0;
      const ofTokens = hasLogprobs ? await chatLogprobs(engine, tokens, logprobs) : null;
      const routes = routesOf(piece, includesRoutes);
      if (deltas.length === 0 && (ofTokens || routes.read_me)) deltas.push({ content: "" });
      const choice = (delta: ChatDelta): ChatChoice => ({ index, delta, logprobs: null, finish_reason: null });
      const choices = deltas.map((delta, at) =>
        at === 0 ? { ...choice(delta), logprobs: ofTokens, ...routes } : choice(delta),
      );
      if (isFirst) choices.unshift(choice({ role: "assistant", content: "" }));
      if (finishReason) {
        choices.push({ ...choice({}), finish_reason: parser?.calledTools ? "tool_calls" : finishReason });
      }
      return choices;
    },
    join: (index, chunks) => ({
      ...joinChat(index, chunks),
      logprobs:
        logprobs === undefined
          ? null
          : { content: chunks.flatMap((chunk) => chunk.logprobs?.content ?? []), refusal: null },
      finish_reason: chunks.at(-1)?.finish_reason ?? null,
      ...joinRoutes(chunks, includesRoutes),
    }),
  };
}

function deltasOf({ text, finishReason }: Piece, parser: ToolCallParser | undefined): ChatDelta[] {
  if (!parser) return text === "" ? [] : [{ content: text }];
  const parts = [parser.push(text), ...(finishReason ? [parser.end()] : [])];
  return parts.flatMap(({ content, toolCalls }) => [
    ...(content === "" ? [] : [{ content }]),
    ...(toolCalls.length === 0 ? [] : [{ tool_calls: toolCalls }]),
  ]);
}

function joinChat(index: number, chunks: readonly ChatChoice[]): object {
  const text = chunks.map(({ delta }) => delta.content ?? "").join("");
  const toolCalls = joinToolCalls(chunks.flatMap(({ delta }) => delta.tool_calls ?? []));
  const content = text === "" && toolCalls.length > 0 ? null : text;
  const calls = toolCalls.length > 0 ? { tool_calls: toolCalls } : {};
  return { index, message: { role: "assistant", content, refusal: null, ...calls } };
}
