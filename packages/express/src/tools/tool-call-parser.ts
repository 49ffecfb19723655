// Tool calls as a model writes them, in the format of Hermes that many models were trained on: their parser for a text
// that arrives in pieces, and their form in an answer.

import { isRecord } from "@readme-moe/core";
export const CALL_BEGIN = "<tool_call>";
export const CALL_END = "</tool_call>";

/** Returns the text of a call up to its arguments. */
export function callHead(name: string): string {
  return `${CALL_BEGIN}\n{"name": ${JSON.stringify(name)}, "arguments": `;
}

/** @param args - JSON */
export function callText(name: string, args: string): string {
  return `${callHead(name)}${args}}\n${CALL_END}`;
}

/** A part of a tool call. Only the first part has `id`, `type` and `name`. */
export interface ToolCallDelta {
  readonly index: number;
  readonly id?: string;
  readonly type?: "function";
  readonly function: { readonly name?: string; readonly arguments: string };
}

/** Adds parts of calls to the calls. @returns the same calls */
export function joinToolCalls(deltas: readonly ToolCallDelta[], calls: WholeToolCall[] = []): WholeToolCall[] {
  for (const { index, id, function: part } of deltas) {
    const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id = id ?? call.id;
    call.function.name = part.name ?? call.function.name;
    call.function.arguments += part.arguments;
  }
  return calls;
}

/** Parses the arguments of a call; `undefined` where they were cut off, or are nested too deeply to be written. */
export function parsedArguments(json: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(json);
    JSON.stringify(value);
    return isRecord(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** A call whose pieces have been joined. */
export interface WholeToolCall {
  id: string;
  readonly type: "function";
  /** `arguments` is JSON. */
  readonly function: { name: string; arguments: string };
}

/** Makes a call of a function with given arguments. */
export function functionCall(id: string, name: string, args: object): WholeToolCall {
  return { id, type: "function", function: { name, arguments: JSON.stringify(args) } };
}

interface ParsedOutput {
  readonly content: string;
  readonly toolCalls: readonly ToolCallDelta[];
}

interface ToolCallParserOptions {
  /**
   * Whether a grammar constrains calls. Arguments of constrained calls are passed on as they arrive. Other calls are
   * passed on when they are complete, and text that only looks like a call stays content.
   */
  readonly isConstrained: boolean;
  /** Creates the id of a call. */
  readonly newId: () => string;
}

/** A constrained call from behind its begin mark up to its arguments, and what its end is found by. */
const CONSTRAINED_HEAD = /^\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": $/;
const CONSTRAINED_HEAD_END = '", "arguments": ';

type State =
  | { readonly at: "text" }
  /** Within a constrained call, before its arguments. `recent` is the end of what was searched for their beginning. */
  | { readonly at: "head"; readonly recent: string }
  | { readonly at: "arguments"; readonly scanner: ValueScanner }
  | { readonly at: "tail" }
  /** Within another call. */
  | { readonly at: "call"; readonly scanner: ValueScanner }
  /** Behind the JSON of another call, before its end mark. */
  | { readonly at: "called"; readonly call: Call }
  /** Behind a begin mark that no call follows: all further text is content. */
  | { readonly at: "lost" };

/**
 * Takes tool calls out of a choice's text as it arrives, in time that is linear in the text. How the text is split into
 * pieces has no influence on the result.
 */
export class ToolCallParser {
  readonly #options: ToolCallParserOptions;
  #state: State = { at: "text" };
  #rest = "";
  /** Text since the last begin mark that was read, and may turn out to be content. */
  #held = "";
  #numCalls = 0;
  /** Whether only white space has come since the last call. */
  #isAfterCall = false;
  #content = "";
  #toolCalls: ToolCallDelta[] = [];

  constructor(options: ToolCallParserOptions) {
    this.#options = options;
  }

  /** Whether the text has calls and does not end within one. */
  get calledTools(): boolean {
    return this.#numCalls > 0 && this.#state.at === "text";
  }

  push(text: string): ParsedOutput {
    this.#rest += text;
    while (this.#advance()) continue;
    return this.#take();
  }

  /** Passes on the rest of the text. */
  end(): ParsedOutput {
    const state = this.#state;
    if (state.at === "text") this.#addText(this.#rest);
    else if (!this.#options.isConstrained) {
      // Models often omit the last end mark.
      if (state.at === "called" && this.#rest === "") this.#begin(state.call);
      else if (state.at !== "lost") this.#content += CALL_BEGIN + this.#held + this.#rest;
      this.#state = { at: "text" };
    }
    this.#rest = "";
    return this.#take();
  }

  /** @returns whether the rest may contain more to read */
  #advance(): boolean {
    const state = this.#state;
    switch (state.at) {
      case "text":
        return this.#readText();
      case "head":
        return this.#readHead(state.recent);
      case "arguments":
        return this.#readArguments(state.scanner);
      case "tail":
        return this.#readTail();
      case "call":
        return this.#readCall(state.scanner);
      case "called":
        return this.#readEnd(state.call);
      case "lost":
        if (!this.#options.isConstrained) this.#content += this.#rest;
        this.#rest = "";
        return false;
      default:
        throw new TypeError(`Unknown state: ${String(state satisfies never)}`);
    }
  }

  #readText(): boolean {
    const begin = this.#rest.indexOf(CALL_BEGIN);
    const end = begin === -1 ? this.#rest.length - overlapLength(this.#rest, CALL_BEGIN) : begin;
    this.#addText(this.#rest.slice(0, end));
    this.#rest = this.#rest.slice(begin === -1 ? end : begin + CALL_BEGIN.length);
    if (begin === -1) return false;
    this.#held = "";
    this.#state = this.#options.isConstrained
      ? { at: "head", recent: "" }
      : { at: "call", scanner: new ValueScanner() };
    return true;
  }

  #readHead(recent: string): boolean {
    const searched = recent + this.#rest;
    const at = searched.indexOf(CONSTRAINED_HEAD_END);
    if (at === -1) {
      this.#state = { at: "head", recent: searched.slice(1 - CONSTRAINED_HEAD_END.length) };
      this.#hold(this.#rest.length);
      return false;
    }
    this.#hold(at + CONSTRAINED_HEAD_END.length - recent.length);
    // The first place counts: no name contains this text.
    const name = CONSTRAINED_HEAD.exec(this.#held)?.[1];
    if (name === undefined) return this.#lose();
    this.#begin({ name: String(JSON.parse(name)), args: "" });
    this.#state = { at: "arguments", scanner: new ValueScanner() };
    return true;
  }

  #readArguments(scanner: ValueScanner): boolean {
    const { length, isEnd } = scanner.scan(this.#rest);
    const args = this.#rest.slice(0, length);
    if (args !== "") this.#toolCalls.push({ index: this.#numCalls - 1, function: { arguments: args } });
    this.#rest = this.#rest.slice(length);
    if (isEnd) this.#state = { at: "tail" };
    return isEnd;
  }

  #readTail(): boolean {
    const end = this.#rest.indexOf(CALL_END);
    this.#rest = this.#rest.slice(end === -1 ? 1 - CALL_END.length : end + CALL_END.length);
    if (end !== -1) this.#state = { at: "text" };
    return end !== -1;
  }

  /** Reads the JSON of a call. Its strings may contain the end mark. */
  #readCall(scanner: ValueScanner): boolean {
    if (!scanner.hasBegun) {
      this.#hold(blankLength(this.#rest));
      if (this.#rest === "") return false;
      if (!this.#rest.startsWith("{")) return this.#lose();
    }
    const { length, isEnd } = scanner.scan(this.#rest);
    this.#hold(length);
    if (!isEnd) return false;
    const call = parseCall(this.#held);
    if (!call) return this.#lose();
    this.#state = { at: "called", call };
    return true;
  }

  #readEnd(call: Call): boolean {
    this.#hold(blankLength(this.#rest));
    if (this.#rest.startsWith(CALL_END)) {
      this.#begin(call);
      this.#rest = this.#rest.slice(CALL_END.length);
      this.#state = { at: "text" };
      return true;
    }
    return CALL_END.startsWith(this.#rest) ? false : this.#lose();
  }

  /** Moves the beginning of the rest to what is held. */
  #hold(length: number): void {
    this.#held += this.#rest.slice(0, length);
    this.#rest = this.#rest.slice(length);
  }

  #lose(): true {
    if (!this.#options.isConstrained) this.#content += CALL_BEGIN + this.#held;
    this.#held = "";
    this.#state = { at: "lost" };
    return true;
  }

  #begin({ name, args }: Call): void {
    const id = this.#options.newId();
    this.#isAfterCall = true;
    this.#toolCalls.push({ index: this.#numCalls++, id, type: "function", function: { name, arguments: args } });
  }

  /** Adds text to the content, without white space that follows a call. */
  #addText(text: string): void {
    const content = this.#isAfterCall ? text.trimStart() : text;
    if (content !== "") this.#isAfterCall = false;
    this.#content += content;
  }

  #take(): ParsedOutput {
    const output = { content: this.#content, toolCalls: this.#toolCalls };
    [this.#content, this.#toolCalls] = ["", []];
    return output;
  }
}

/** Finds the end of a JSON object or array that arrives in pieces. */
class ValueScanner {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;

  /** Whether the value's first bracket has come. */
  get hasBegun(): boolean {
    return this.#depth > 0;
  }

  /** @returns the length of the value's part in `text`, and whether the value is complete */
  scan(text: string): { readonly length: number; readonly isEnd: boolean } {
    for (let index = 0; index < text.length; index++) {
      const character = text[index];
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (character === "\\") this.#isEscaped = true;
        else if (character === '"') this.#isInString = false;
        continue;
      }
      if (character === '"') this.#isInString = true;
      else if (character === "{" || character === "[") this.#depth++;
      else if ((character === "}" || character === "]") && --this.#depth <= 0) {
        return { length: index + 1, isEnd: true };
      }
    }
    return { length: text.length, isEnd: false };
  }
}

/** Returns the length of the longest end of `text` that is a beginning of `mark`. */
function overlapLength(text: string, mark: string): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length--) {
    if (mark.startsWith(text.slice(-length))) return length;
  }
  return 0;
}

/** Returns the length of the white space of JSON that a text begins with. */
function blankLength(text: string): number {
  const end = text.search(/[^ \t\r\n]/);
  return end === -1 ? text.length : end;
}

interface Call {
  readonly name: string;
  /** Arguments as JSON. */
  readonly args: string;
}

function parseCall(text: string): Call | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return undefined;
    const { name, arguments: args, parameters }: Readonly<Record<string, unknown>> = { ...value };
    const given = args ?? parameters ?? {};
    if (typeof name !== "string" || typeof given !== "object") return undefined;
    // Values that are nested too deeply for this are no calls.
    return { name, args: JSON.stringify(given) };
  } catch {
    return undefined;
  }
}
