import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { checkTemplateValues, describeValue, ReadMeError, type ChatMessage } from "@readme-moe/core";
import { checkMessages } from "./chat-message.ts";
import { freeMarks } from "./token-guard.ts";
import { templateGlobals } from "./template-globals.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The sources of a model's templates: most have one, some a second for chats with tools. */
export interface ChatTemplateSources {
  readonly default: string;
  /** Used when `tools` are given. @default default */
  readonly toolUse?: string | undefined;
}

export interface ChatTemplateOptions {
  /** What `strftime_now` of a template shows. @default the clock */
  readonly now?: () => Date;
}

/** Further fields are variables of the template, such as `enable_thinking`. */
export interface ChatOptions {
  /** Ends with what makes the model answer. @default true */
  readonly addGenerationPrompt?: boolean | undefined;
  /** Tools that the model may call, in the shape that its template expects. */
  readonly tools?: readonly object[] | undefined;
  /** Documents that the answer may draw on. */
  readonly documents?: readonly object[] | undefined;
  readonly [variable: string]: unknown;
}

type NamedTokens = Pick<Tokenizer, "bosToken" | "eosToken" | "unkToken" | "padToken">;

interface ParsedTemplate {
  readonly template: Template;
  /** Walks through the parts of a content, and takes them as they are; other templates join strings. */
  readonly takesParts: boolean;
}

/**
 * The Jinja template that turns a chat into the text that a model was trained on.
 *
 * Sees what transformers gives it: `messages`, `tools`, `documents`, `add_generation_prompt`, the texts of
 * the tokenizer's `bos_token`, `eos_token`, `unk_token`, `pad_token`, `strftime_now` and `raise_exception`.
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

  /** Two characters that it does not write. */
  get freeMarks(): readonly [string, string] {
    return freeMarks(`${this.#sources.default}${this.#sources.toolUse ?? ""}`);
  }

  /** Has a place for `tools`, and so tells the model itself what it may call and how. */
  get knowsTools(): boolean {
    // Read, not run: a template that knows none still renders, and leaves them out.
    return this.#sources.toolUse !== undefined || /\{[{%][^{}]*\btools\b/.test(this.#sources.default);
  }

  /**
   * @throws {TypeError} when `messages` are malformed, naming the first wrong one, or `tools` or `documents` are no lists
   * @throws {ReadMeError} `ERR_CHAT_TEMPLATE` when the template is no Jinja, or refuses these messages
   */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    checkMessages(messages);
    checkTemplateValues(messages, options);
    const { addGenerationPrompt = true, ...variables } = options;
    const [tools, documents] = [listOption("tools", options.tools), listOption("documents", options.documents)];
    const hasTools = tools !== null && tools.length > 0;
    const source = hasTools ? (this.#sources.toolUse ?? this.#sources.default) : this.#sources.default;
    const { template, takesParts } = this.#parse(source);
    const given = takesParts ? messages : messages.map(joinText);
    try {
      return run(template, templateGlobals(this.#now), {
        bos_token: this.#tokens.bosToken?.text,
        eos_token: this.#tokens.eosToken?.text,
        unk_token: this.#tokens.unkToken?.text,
        pad_token: this.#tokens.padToken?.text,
        ...variables,
        messages: given,
        // As in transformers, where templates ask `is not none`.
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
      const loops = source.match(/\{%-?\s*for\s[^%]*/g) ?? [];
      const parsed = { template: new Template(source), takesParts: loops.some((loop) => /\bcontent\b/.test(loop)) };
      this.#parsed.set(source, parsed);
      return parsed;
    } catch (cause) {
      throw failed("The chat template cannot be read", cause);
    }
  }
}

/** What `Template.render` does, but with globals of ours, and variables that may have a global's name. */
function run(template: Template, globals: object, variables: object): string {
  const outer = new Environment();
  for (const [name, value] of Object.entries(globals)) outer.set(name, value);
  const scope = new Environment(outer);
  for (const [name, value] of Object.entries(variables)) scope.set(name, value);
  return String(new Interpreter(scope).run(template.parsed).value);
}

/** Content of text parts becomes a string, joined as other servers join it. */
function joinText(message: ChatMessage, index: number): ChatMessage {
  if (!Array.isArray(message.content)) return message;
  const parts = message.content as readonly { readonly type: string; readonly text?: unknown }[];
  const other = parts.find((part) => part.type !== "text");
  if (other !== undefined) {
    const what = `messages[${index}].content has a part of type ${JSON.stringify(other.type)}`;
    throw new ReadMeError("ERR_CHAT_TEMPLATE", `${what}, but this model's chat template takes text only`);
  }
  return { ...message, content: parts.map((part) => part.text).join("\n") };
}

/** A list, or `null` where there is none. */
function listOption(name: string, value: unknown): readonly unknown[] | null {
  if (value === undefined || value === null) return null;
  if (Array.isArray(value)) return value as unknown[];
  throw new TypeError(`Expected \`${name}\` to be an array of objects, got ${describeValue(value)}`);
}

function failed(what: string, cause: unknown): ReadMeError {
  // Errors of JavaScript itself tell of the interpreter, not of the template.
  const isOwn = cause instanceof Error && !(cause instanceof TypeError) && !(cause instanceof RangeError);
  const reason = isOwn ? cause.message : "it cannot handle what it was given";
  return new ReadMeError("ERR_CHAT_TEMPLATE", `${what}: ${reason}`, { cause });
}
