// Tools of a chat: which may be called, how the model is shown them, and what constrains its calls.

import type { ChatContentPart, ChatMessage, EngineInfo } from "@readme-moe/core";
import {
  ANSWER_START,
  checkSchemaSizes,
  type Constraint,
  type TaggedAnswers,
  type TaggedJson,
} from "@readme-moe/grammar";
import { invalid } from "../http/errors.ts";
import { jsonHeads, jsonStyles } from "./call-bodies.ts";
import { callText, formReader } from "./call-forms.ts";
import { valueOf } from "./call-input.ts";
import { ToolCallParser, type ToolCallParserOptions } from "./tool-call-parser.ts";

/** A function that the model may call, in the shape of the OpenAI API. */
export interface ToolDefinition {
  readonly type: "function";
  readonly function: {
    readonly name: string;
    readonly description?: string | null | undefined;
    /** JSON Schema of an object. @default an object without properties */
    readonly parameters?: Readonly<Record<string, unknown>> | null | undefined;
    /** Whether calls must be valid under `parameters` even if they are not required. */
    readonly strict?: boolean | null | undefined;
  };
}

type ToolChoice =
  | "none"
  | "auto"
  | "required"
  | { readonly type: "function"; readonly function: { readonly name: string } };

/** Fields of a request about tools. */
export interface ToolFields {
  readonly tools?: readonly ToolDefinition[] | null | undefined;
  readonly tool_choice?: ToolChoice | null | undefined;
  readonly parallel_tool_calls?: boolean | null | undefined;
}

interface UsableTools {
  /** Tools that the model is shown. */
  readonly shown: readonly ToolDefinition[];
  /** Tools that the model may call. */
  readonly callable: readonly ToolDefinition[];
  /** Whether the answer has to be a call. */
  readonly isRequired: boolean;
  /** Whether the answer may have one call only. */
  readonly isSingle: boolean;
}

/** @throws {ApiError} 400 for duplicate names, and for choices of tools that do not exist */
export function usableTools({ tools, tool_choice: choice, parallel_tool_calls: parallel }: ToolFields): UsableTools {
  const shown = tools ?? [];
  const names = shown.map((tool) => tool.function.name);
  const duplicate = names.find((name, index) => names.indexOf(name) !== index);
  if (duplicate !== undefined) throw invalid("tools", `two functions have the name '${duplicate}'`);
  const isSingle = parallel === false;
  if (choice === "none" || (shown.length === 0 && (choice ?? "auto") === "auto")) {
    return { shown, callable: [], isRequired: false, isSingle };
  }
  if (shown.length === 0) throw invalid("tool_choice", "expected `tools` beside it");
  if (typeof choice !== "object" || choice === null) {
    return { shown, callable: shown, isRequired: choice === "required", isSingle };
  }
  const callable = shown.filter((tool) => tool.function.name === choice.function.name);
  if (callable.length > 0) return { shown, callable, isRequired: true, isSingle: true };
  throw invalid("tool_choice", `no function in \`tools\` has the name '${choice.function.name}'`);
}

/** Facts that calls are bound and read by, besides the request's. */
export interface CallContext extends Pick<EngineInfo, "chatTemplateKnowsTools" | "toolCallForm"> {
  /** Whether each call must be valid, whatever the tools say. */
  readonly toolsStrict: boolean;
}

/**
 * Constrains an answer. Required calls follow the schemas of the tools. Other answers are free until they begin a call
 * in the model's own form; if a tool is strict, until they begin one in any form. Behind a mark, names are bound, too.
 * With a strict tool, so are names in JSON on one line that begins a block of code or, if the model's form has no mark,
 * the answer. Of a tool that is neither required nor strict, an unsupported schema is replaced by that of any object.
 *
 * @param compile - compiles the grammar, such as `Grammars.tagged`
 * @returns no constraint where calls are left to the model, and no parser where nothing can be called; the parser's
 * argument creates the ids of calls
 * @throws {ApiError} 400 naming the parameter
 * @throws {ReadMeError} as `compile`
 */
export async function constrainCalls(
  fields: ToolFields,
  { chatTemplateKnowsTools, toolCallForm, toolsStrict }: CallContext,
  compile: (answers: TaggedAnswers) => Promise<Constraint>,
): Promise<{
  readonly constraint: Constraint | undefined;
  readonly newParser: ((newId: () => string) => ToolCallParser) | undefined;
}> {
  const { callable, isRequired, isSingle } = usableTools(fields);
  if (callable.length === 0) return { constraint: undefined, newParser: undefined };
  // A model that is told of tools by us is told to write Hermes' form.
  const form = chatTemplateKnowsTools ? toolCallForm : undefined;
  const { begin, end, trigger, key = "arguments", separator, isOwn = true } = formReader(form).form.written;
  const isStrict = toolsStrict || callable.some((tool) => tool.function.strict === true);
  const isNeeded = isRequired || isStrict;
  const bindsAll = isStrict && !isRequired;
  // Models without a mark begin their answers with a call.
  const places = !bindsAll ? [] : trigger === undefined ? [FENCE, ANSWER_START] : [FENCE];
  const tags = callable.map((tool): TaggedJson => {
    const { name, strict } = tool.function;
    const styles = jsonStyles(name, key);
    const oneLine = styles.filter((style) => style.begin.startsWith(ONE_LINE));
    const placed = places.flatMap((place) => oneLine.map((style) => ({ ...style, begin: `${place}${style.begin}` })));
    return {
      name: `function '${name}'`,
      begin: begin(name),
      schema: parametersOf(tool),
      end,
      others: bindsAll ? [...styles, ...placed].filter((style) => style.begin !== begin(name)) : [],
      ...(isRequired || toolsStrict || strict ? {} : { fallback: { type: "object" } }),
    };
  });
  const triggers = [
    ...(trigger === undefined ? [] : [trigger]),
    ...places.map((place) => `${place}${ONE_LINE}`),
    ...(bindsAll ? callable.flatMap((tool) => jsonHeads(tool.function.name)) : []),
  ];
  let constraint: Constraint | undefined;
  try {
    // Free text may look like the beginning of a call that has no mark.
    const isBound = isNeeded || (isOwn && trigger !== undefined);
    if (isBound) constraint = await compile({ tags, trigger: isRequired ? undefined : triggers, separator, isSingle });
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    if (isNeeded) throw invalid("tools", error.message, error);
  }
  const hasMark = trigger !== undefined && !bindsAll;
  const bound: ToolCallParserOptions["bound"] = !constraint ? "none" : hasMark ? "own" : "all";
  const tools = new Map(callable.map((tool) => [tool.function.name, tool.function.parameters] as const));
  return { constraint, newParser: (newId) => new ToolCallParser({ form, tools, bound, isSingle, newId }) };
}

/** End of the fence of a block of code, which does not overlap itself, and beginning of JSON on one line behind it. */
const [FENCE, ONE_LINE] = ["`json\n", '{"name":'] as const;

const TYPES = ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"];

/** Returns the schema of a function's arguments, which are an object also where it does not say so. */
function parametersOf({ function: { parameters } }: ToolDefinition): Readonly<Record<string, unknown>> {
  if (!parameters) return { type: "object", additionalProperties: false };
  return TYPES.some((name) => name in parameters) ? parameters : { ...parameters, type: "object" };
}

/** A message of a request to the chat API. */
export interface RequestMessage {
  readonly role: string;
  readonly content?: string | readonly ChatContentPart[] | null | undefined;
  readonly tool_calls?: readonly object[] | null | undefined;
}

/** Returns messages as chat templates expect them. @throws {ApiError} 400 for messages without content */
export function templateMessages(messages: readonly RequestMessage[]): readonly ChatMessage[] {
  return messages.map(({ role, content, ...rest }, index) => {
    const fields = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined);
    const hasContent = content !== null && content !== undefined;
    if (!hasContent && (rest.tool_calls ?? []).length === 0) {
      throw invalid(`messages[${index}].content`, "expected text, or tool calls beside it");
    }
    // Templates do not know the role `developer`.
    const own = { role: role === "developer" ? "system" : role, ...(hasContent ? { content } : {}) };
    return { ...Object.fromEntries(fields), ...own };
  });
}

interface ToolCall {
  readonly function: { readonly name: string; readonly arguments: string };
}

/**
 * Puts tools, calls and results into the messages of a chat. A template that supports tools gets them as variables.
 * For other templates they become text.
 *
 * @param messages - as from `templateMessages`
 * @returns messages, and variables of the chat template
 * @throws {ApiError} 400 naming the parameter
 */
export function presentTools(
  fields: ToolFields,
  messages: readonly ChatMessage[],
  { chatTemplateKnowsTools }: Pick<EngineInfo, "chatTemplateKnowsTools">,
): { readonly messages: readonly ChatMessage[]; readonly template: Readonly<Record<string, unknown>> } {
  const { shown, callable } = usableTools(fields);
  try {
    checkSchemaSizes(shown.map((tool) => tool.function.parameters ?? {}));
  } catch (error) {
    throw error instanceof RangeError ? invalid("tools", error.message, error) : error;
  }
  if (chatTemplateKnowsTools) {
    return { messages: messages.map(withParsedArguments), template: shown.length === 0 ? {} : { tools: shown } };
  }
  const texts = messagesAsText(messages);
  return { messages: callable.length === 0 ? texts : withSystemText(texts, toolsPrompt(shown)), template: {} };
}

/** Parses the arguments of calls, since templates that support tools write them as JSON themselves. */
function withParsedArguments(message: ChatMessage): ChatMessage {
  const calls = callsOf(message);
  if (calls.length === 0) return message;
  // Clients may send text that is not JSON, which stays text.
  const parsed = calls.map((call) => ({
    ...call,
    function: { ...call.function, arguments: valueOf(call.function.arguments) },
  }));
  return { ...message, content: message.content ?? "", tool_calls: parsed };
}

/** Writes calls and results as text in roles that every template supports. */
function messagesAsText(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const plain: ChatMessage[] = [];
  let isAfterResult = false;
  for (const message of messages) {
    const isResult = message.role === "tool";
    const last = plain.at(-1);
    if (isResult && isAfterResult && last) {
      // Results of parallel calls form one turn.
      plain[plain.length - 1] = { ...last, content: `${textOf(last)}\n${resultText(message)}` };
    } else plain.push(isResult ? { role: "user", content: resultText(message) } : withCallsAsText(message));
    isAfterResult = isResult;
  }
  return plain;
}

function withCallsAsText(message: ChatMessage): ChatMessage {
  const calls = callsOf(message);
  if (calls.length === 0) return message;
  const { tool_calls: _, ...rest } = message;
  const texts = calls.map(({ function: { name, arguments: args } }) => callText(name, args));
  return { ...rest, content: [textOf(message), ...texts].filter((text) => text !== "").join("\n") };
}

function withSystemText(messages: readonly ChatMessage[], text: string): readonly ChatMessage[] {
  const [first, ...rest] = messages;
  if (first?.role !== "system") return [{ role: "system", content: text }, ...messages];
  return [{ ...first, content: `${textOf(first)}\n\n${text}` }, ...rest];
}

function resultText(message: ChatMessage): string {
  return `<tool_response>\n${textOf(message)}\n</tool_response>`;
}

function callsOf({ tool_calls: calls }: ChatMessage): readonly ToolCall[] {
  return Array.isArray(calls) ? calls : [];
}

function textOf({ content }: ChatMessage): string {
  if (typeof content === "string") return content;
  const parts: readonly ChatContentPart[] = content ?? [];
  return parts.map((part) => (typeof part["text"] === "string" ? part["text"] : "")).join("\n");
}

/** Describes tools to a model whose chat template does not support them. */
function toolsPrompt(tools: readonly ToolDefinition[]): string {
  return [
    "You may call one or more functions to help with the user's request.",
    "Here are the functions, as JSON within <tools></tools>:",
    "<tools>",
    ...tools.map(({ type, function: { name, description, parameters } }) =>
      JSON.stringify({ type, function: { name, description: description ?? "", parameters: parameters ?? {} } }),
    ),
    "</tools>",
    "For each call answer with a JSON object of the function's name and arguments within <tool_call></tool_call>:",
    "<tool_call>",
    '{"name": <function name>, "arguments": <arguments as a JSON object>}',
    "</tool_call>",
  ].join("\n");
}
