import {
  type ChatMessage,
  checkTemplateValues,
  describeValue,
  isRecord,
  ReadMeError,
  type ReasoningForm,
  reasoningFormOf,
  type ToolCallForm,
  toolCallFormOf,
  toolCallMarks,
} from "@readme-moe/core";
import { isList } from "../files/read-file.ts";
import { MeteredTemplate, templateGlobals } from "./metered-template.ts";
import { finish } from "./pausing.ts";
import { freeMarks } from "./token-encoder.ts";
import type { EncodeOptions, Tokenizer } from "./tokenizer.ts";

/** Sources of a model's templates. Most models have one, some a second for chats with tools. */
export interface ChatTemplateSources {
  readonly default: string;
  /** Template for chats with `tools`. @default default */
  readonly toolUse?: string | undefined;
}

export interface ChatTemplateOptions {
  /** Time that `strftime_now` of a template shows. @default the clock */
  readonly now?: () => Date;
}

/** Options of rendering. Further fields are variables of the template, such as `enable_thinking`. */
export interface ChatOptions {
  /** Ends the text with the beginning of the model's answer. @default true */
  readonly addGenerationPrompt?: boolean | undefined;
  /**
   * Ends the text within the last message, which the model then goes on with, instead of a new answer. The message
   * needs a text as its content. @default false
   */
  readonly continueFinalMessage?: boolean | undefined;
  /** Tools that the model may call, in the shape that its template expects. */
  readonly tools?: readonly object[] | undefined;
  /** Documents that the answer may draw on. */
  readonly documents?: readonly object[] | undefined;
  readonly [variable: string]: unknown;
}

// A template chooses the message of its own errors.
const MAX_REASON_LENGTH = 1000;

type NamedTokens = Pick<Tokenizer, "bosToken" | "eosToken" | "unkToken" | "padToken">;

interface ParsedTemplate {
  readonly template: MeteredTemplate;
  /** Gives messages the content and the calls that the template reads. */
  readonly prepare: (messages: readonly ChatMessage[]) => readonly ChatMessage[];
}

/** Gives a message the content that a template reads: parts, a string, or either, with calls it would leave out. */
type FormOf = (message: ChatMessage, index: number) => ChatMessage;

/**
 * The Jinja template that turns a chat into the text that a model was trained on.
 *
 * The template sees the variables that transformers gives it: `messages`, `tools`, `documents`,
 * `add_generation_prompt`, the texts of the tokenizer's `bos_token`, `eos_token`, `unk_token`, `pad_token`,
 * `strftime_now` and `raise_exception`.
 */
export class ChatTemplate {
  readonly #sources: ChatTemplateSources;
  readonly #tokens: NamedTokens;
  readonly #now: () => Date;
  readonly #parsed = new Map<string, ParsedTemplate>();

  /** Parses nothing yet, so that a model whose template is broken can still continue plain text. */
  constructor(source: string | ChatTemplateSources, tokens: NamedTokens, options: ChatTemplateOptions = {}) {
    this.#sources = typeof source === "string" ? { default: source } : source;
    this.#tokens = tokens;
    this.#now = options.now ?? (() => new Date());
  }

  get sources(): ChatTemplateSources {
    return this.#sources;
  }

  /** Two characters that the template does not have. */
  get freeMarks(): readonly [string, string] {
    return freeMarks(`${this.#sources.default}${this.#sources.toolUse ?? ""}`);
  }

  /** Whether the template writes `tools`, and so tells the model itself which tools there are. */
  get knowsTools(): boolean {
    // The source is searched and not run: a template that ignores `tools` renders without an error.
    // `message['tools']` is no variable of the template.
    return this.#sources.toolUse !== undefined || /\{[{%][^{}]*(?<!['".])\btools\b/.test(this.#sources.default);
  }

  /** Form of calls that the template shows, if it shows one. */
  get toolCallForm(): ToolCallForm | undefined {
    return toolCallFormOf(`${this.#sources.toolUse ?? ""}${this.#sources.default}`);
  }

  /** Whether the template writes messages of the roles `query` and `document`, as those of rerankers do. */
  get knowsPairs(): boolean {
    return ["query", "document"].every((role) => new RegExp(`["']${role}["']`).test(this.#sources.default));
  }

  /**
   * Finds the form in which answers may begin with reasoning.
   * @param tokenizer - tokenizer whose vocabulary may have `<think>` and `</think>`
   */
  reasoningForm(tokenizer: Pick<Tokenizer, "tokenId">): ReasoningForm | undefined {
    const { default: source, toolUse = "" } = this.#sources;
    const hasTokens = ["<think>", "</think>"].every((mark) => tokenizer.tokenId(mark) !== undefined);
    return reasoningFormOf(source + toolUse) ?? (hasTokens ? "think" : undefined);
  }

  /**
   * Renders a chat.
   * @throws {TypeError} when `messages` are malformed, naming the first wrong one, `tools` or `documents` are no
   *   lists, or there is no last message to continue
   * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` when the template is no Jinja, or refuses these messages
   */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    checkMessages(messages);
    checkTemplateValues(messages, options);
    const { continueFinalMessage = false, addGenerationPrompt = !continueFinalMessage, ...variables } = options;
    if (!continueFinalMessage) return this.#render(messages, addGenerationPrompt, variables);
    if (addGenerationPrompt) {
      throw new TypeError("Expected `addGenerationPrompt` to be false beside `continueFinalMessage`");
    }
    const [final, content] = continued(messages);
    // A mark that neither the template nor the message has, so that trimming templates keep the message's spaces.
    const [mark] = freeMarks(`${this.#sources.default}${this.#sources.toolUse ?? ""}${content}`);
    const text = this.#render([...messages.slice(0, -1), { ...final, content: content + mark }], false, variables);
    const end = text.lastIndexOf(mark);
    if (end >= 0) return text.slice(0, end);
    throw new ReadMeError(
      "ERR_CHAT_TEMPLATE",
      "The chat template leaves out the last message, which is to be continued",
    );
  }

  #render(messages: readonly ChatMessage[], addGenerationPrompt: boolean, variables: ChatOptions): string {
    const [tools, documents] = [listOption("tools", variables.tools), listOption("documents", variables.documents)];
    const hasTools = tools !== null && tools.length > 0;
    const source = hasTools ? (this.#sources.toolUse ?? this.#sources.default) : this.#sources.default;
    const { template, prepare } = this.#parse(source);
    try {
      return template.render(templateGlobals(this.#now), {
        bos_token: this.#tokens.bosToken?.text,
        eos_token: this.#tokens.eosToken?.text,
        unk_token: this.#tokens.unkToken?.text,
        pad_token: this.#tokens.padToken?.text,
        ...variables,
        messages: prepare(messages),
        // `null` as in transformers, since templates ask `is not none`.
        tools: hasTools ? tools : null,
        documents,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (cause) {
      throw failed("The chat template failed on these messages", cause);
    }
  }

  #parse(source: string): ParsedTemplate {
    const known = this.#parsed.get(source);
    if (known !== undefined) return known;
    try {
      const [formOf, isOneCall] = [this.#formFor(source), takesOneCall(source)];
      const prepare: ParsedTemplate["prepare"] = (messages) => {
        const formed = messages.map(formOf);
        return isOneCall ? oneCallEach(formed) : formed;
      };
      const parsed = { template: new MeteredTemplate(source), prepare };
      this.#parsed.set(source, parsed);
      return parsed;
    } catch (cause) {
      throw failed("The chat template cannot be read", cause);
    }
  }

  /** Finds the form of contents that a template reads. Templates that loop over parts take strings, too. */
  #formFor(source: string): FormOf {
    if (this.knowsPairs && readsPartsOnly(source)) return splitText;
    const loops = source.match(/\{%-?\s*for\s[^%]*/g) ?? [];
    const formOf: FormOf = loops.some((loop) => /\bcontent\b/.test(loop)) ? (one) => one : joinText;
    const names = ["thinking", "reasoning"].filter((name) => new RegExp(`[.'"]${name}\\b`).test(source));
    const named: FormOf = (message, index) => withReasoning(formOf(message, index), names);
    if (source.includes("tool_calls")) return source.includes("reasoning_content") ? formOf : named;
    const form = toolCallFormOf(source);
    const [mark = ""] = form === undefined ? [] : toolCallMarks(form);
    return (message, index) => withCallsInText(formOf(message, index), mark);
  }
}

/** Returns the last message and its text. @throws {TypeError} when it cannot be continued */
function continued(messages: readonly ChatMessage[]): readonly [ChatMessage, string] {
  const final = messages.at(-1);
  const content = final?.content;
  if (final?.role === "assistant" && typeof content === "string") return [final, content];
  throw new TypeError("Expected the last message to be the assistant's, with a text, since it is to be continued");
}

/** Tells whether a template reads contents as parts, and never as a string. */
function readsPartsOnly(source: string): boolean {
  return /\.text\b|\[["']text["']\]/.test(source) && !/\bis (not )?string\b/.test(source);
}

/** Makes the only part of a content that is a string. */
function splitText(message: ChatMessage): ChatMessage {
  const { content } = message;
  return typeof content === "string" ? { ...message, content: [{ type: "text", text: content }] } : message;
}

/** Joins the text parts of a content to one string, with line breaks as other servers do. */
function joinText(message: ChatMessage, index: number): ChatMessage {
  const { content } = message;
  if (typeof content !== "object" || content === null) return message;
  const other = content.find((part) => part.type !== "text");
  if (other !== undefined) {
    const what = `messages[${index}].content has a part of type ${JSON.stringify(other.type)}`;
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${what}, but this model's chat template takes text only`);
  }
  return { ...message, content: content.map((part) => part["text"]).join("\n") };
}

/** Gives the reasoning before a call the names that a template has for it. Beside a content it would be refused. */
function withReasoning(message: ChatMessage, names: readonly string[]): ChatMessage {
  const { reasoning_content: reasoning, content, tool_calls: calls } = message;
  if (typeof reasoning !== "string" || !calls || content) return message;
  return { ...message, ...Object.fromEntries(names.map((name) => [name, reasoning])) };
}

/** Tells whether a template writes the first call of a message alone (gpt-oss). */
function takesOneCall(source: string): boolean {
  return /\.tool_calls\[0\]/.test(source) && !/\{%-?\s*for\s[^%]*tool_calls/.test(source);
}

/** Makes a message of each call, which the call's result follows. Results of no call come last. */
function oneCallEach(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const made: ChatMessage[] = [];
  for (let at = 0; at < messages.length;) {
    const message = messages[at++]!;
    const { tool_calls: given, ...plain } = message;
    const calls = isList(given) ? given : [];
    if (calls.length === 0) made.push(plain);
    const results: ChatMessage[] = [];
    while (calls.length > 1 && messages[at]?.role === "tool") results.push(messages[at++]!);
    const isNamed = results.some((result) => result["tool_call_id"] !== undefined);
    for (const [index, call] of calls.entries()) {
      const { content, ...rest } = index === 0 ? plain : { role: message.role, content: null };
      // A content that is `null` is none to such a template.
      made.push({ ...rest, ...(content === null ? {} : { content }), tool_calls: [call] });
      const isOf = (result: ChatMessage): boolean => isRecord(call) && result["tool_call_id"] === call["id"];
      const place = isNamed ? results.findIndex(isOf) : 0;
      if (place >= 0) made.push(...results.splice(place, 1));
    }
    made.push(...results);
  }
  return made;
}

/** Writes calls of tools into a content, for templates that leave them out, such as Granite 3's. */
function withCallsInText(message: ChatMessage, mark: string): ChatMessage {
  const { content, tool_calls: calls } = message;
  const isInParts = typeof content === "object" && content !== null;
  if (!isList(calls) || calls.length === 0 || isInParts) return message;
  const written = calls.map((call) => (isRecord(call) && isRecord(call["function"]) ? call["function"] : call));
  return { ...message, content: `${content ?? ""}${mark}${JSON.stringify(written)}` };
}

/** Checks that an option is a list; `null` stands for no list. */
function listOption(name: string, value: unknown): readonly unknown[] | null {
  if (value === undefined || value === null) return null;
  if (isList(value)) return value;
  throw new TypeError(`Expected \`${name}\` to be an array of objects, got ${describeValue(value)}`);
}

function failed(what: string, cause: unknown): ReadMeError {
  // JavaScript's own errors are about the interpreter, not about the template.
  const isOwn = cause instanceof Error && !(cause instanceof TypeError) && !(cause instanceof RangeError);
  const reason = isOwn ? cause.message.slice(0, MAX_REASON_LENGTH) : "it cannot handle what it was given";
  return new ReadMeError("ERR_CHAT_TEMPLATE", `${what}: ${reason}`, { cause });
}

/** @throws {TypeError} naming the index of the message, the expectation and the value */
function checkMessages(messages: unknown): asserts messages is readonly ChatMessage[] {
  if (!isList(messages) || messages.length === 0) {
    const given = Array.isArray(messages) ? "an empty array" : describeValue(messages);
    throw new TypeError(`Expected \`messages\` to be an array of at least one { role, content }, got ${given}`);
  }
  for (const [index, message] of messages.entries()) checkMessage(`messages[${index}]`, message);
}

function checkMessage(name: string, message: unknown): void {
  if (!isRecord(message)) throw unexpected(name, "an object { role, content }", message);
  const { role, content } = message;
  if (typeof role !== "string") throw unexpected(`${name}.role`, "a string", role);
  if (typeof content === "string" || content === null) return;
  if (content === undefined && Array.isArray(message["tool_calls"])) return;
  if (!isList(content)) throw unexpected(`${name}.content`, "a string, an array of parts or null", content);
  for (const [index, part] of content.entries()) {
    const { type, text } = isRecord(part) ? part : {};
    if (typeof type !== "string") throw unexpected(`${name}.content[${index}]`, "an object with a string `type`", part);
    if (type === "text" && typeof text !== "string") {
      throw unexpected(`${name}.content[${index}].text`, "a string", text);
    }
  }
}

function unexpected(name: string, expectation: string, value: unknown): TypeError {
  return new TypeError(`Expected \`${name}\` to be ${expectation}, got ${describeValue(value)}`);
}

/** Messages, and the variables of the template that turns them into a text. */
export interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly template: ChatOptions;
}

/**
 * Meaning of a control token's spelling, such as `<|im_end|>`, in the strings of messages, tools and the template's
 * other variables: text like any other, or the control token.
 */
export type ControlTokensInMessages = "text" | "control";

interface EncodeChatOptions extends Pick<EncodeOptions, "maxTokens" | "tooMany" | "addSpecialTokens"> {
  /** @default "text" */
  readonly controlTokensInMessages?: ControlTokensInMessages;
}

/**
 * Encodes a chat in steps like those of `Tokenizer.encodeInSteps`, of which an early one renders the template.
 * Templates write the BOS token themselves, so none is added by default.
 *
 * @param template - `undefined` when the model has none
 * @throws as `ChatTemplate.render`; {ReadMeError} `ERR_CHAT_TEMPLATE` when there is no template, `ERR_CONTEXT_LENGTH`
 */
export function* encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  chat: Chat,
  options: EncodeChatOptions = {},
): Generator<void, Int32Array> {
  if (template === undefined) {
    throw new ReadMeError("ERR_CHAT_TEMPLATE", "This model has no chat template; give it a plain prompt");
  }
  const { controlTokensInMessages = "text", addSpecialTokens = false, maxTokens = Infinity, tooMany } = options;
  // Each message has at least one token, and rendering it takes some 20 µs.
  if (Array.isArray(chat.messages) && chat.messages.length > maxTokens && tooMany) throw tooMany(chat.messages.length);
  const limits = { addSpecialTokens, maxTokens, ...(tooMany && { tooMany }) };
  checkTemplateValues(chat.messages, chat.template);
  if (controlTokensInMessages === "control") {
    return yield* tokenizer.encodeInSteps(template.render(chat.messages, chat.template), limits);
  }
  const guard = tokenizer.guard(template.freeMarks);
  const { value, isMarked } = yield* guard.guard([chat.messages, ...Object.values(chat.template)] as const);
  const [messages, ...values] = value;
  const variables = Object.fromEntries(Object.keys(chat.template).map((name, index) => [name, values[index]]));
  return yield* tokenizer.encodeInSteps(template.render(messages, variables), isMarked ? { ...limits, guard } : limits);
}

/** Encodes a chat without pauses. */
export function applyChatTemplate(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Int32Array {
  return finish(encodeChat(tokenizer, template, { messages, template: options }));
}
