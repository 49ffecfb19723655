// Tool calls as a model writes them, in the format of Hermes that many models were trained on, and their parser.

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

/** Joins the parts of calls into whole calls. */
export function joinToolCalls(deltas: readonly ToolCallDelta[]): readonly WholeToolCall[] {
  const calls: WholeToolCall[] = [];
  for (const { index, id, function: part } of deltas) {
    const call = (calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
    call.id = id ?? call.id;
    call.function.name = part.name ?? call.function.name;
    call.function.arguments += part.arguments;
  }
  return calls;
}

/** A call whose pieces have been joined. */
export interface WholeToolCall {
  id: string;
  readonly type: "function";
  /** `arguments` is JSON. */
  readonly function: { name: string; arguments: string };
}

/** Content and calls of a piece of text. */
export interface ParsedOutput {
  readonly content: string;
  readonly toolCalls: readonly ToolCallDelta[];
}

export interface ToolCallParserOptions {
  /**
   * Whether a grammar constrains calls. Arguments of constrained calls are passed on as they arrive. Other calls are
   * passed on when they are complete, and text that only looks like a call stays content.
   */
  readonly isBound: boolean;
  /** Creates the id of a call. */
  readonly newId: () => string;
}

/** A constrained call from behind its begin mark up to its arguments. */
const BOUND_HEAD = /^\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": /;

type State =
  | { readonly at: "text" }
  | { readonly at: "head" }
  | { readonly at: "arguments"; readonly scanner: ArgumentScanner }
  | { readonly at: "tail" };

/**
 * Takes tool calls out of a choice's text as it arrives. How the text is split into pieces has no influence on the
 * result.
 */
export class ToolCallParser {
  readonly #options: ToolCallParserOptions;
  #state: State = { at: "text" };
  /** Text that is not passed on yet. */
  #rest = "";
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
    if (this.#state.at === "text") this.#addText(this.#rest);
    else if (this.#state.at === "head" && !this.#options.isBound) this.#endUnbound();
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
        return this.#options.isBound ? this.#readHead() : this.#readCall();
      case "arguments":
        return this.#readArguments(state.scanner);
      case "tail":
        return this.#readTail();
      default:
        throw new TypeError(`Unknown state: ${String(state satisfies never)}`);
    }
  }

  #readText(): boolean {
    const begin = this.#rest.indexOf(CALL_BEGIN);
    const end = begin === -1 ? this.#rest.length - overlapLength(this.#rest, CALL_BEGIN) : begin;
    this.#addText(this.#rest.slice(0, end));
    this.#rest = this.#rest.slice(begin === -1 ? end : begin + CALL_BEGIN.length);
    if (begin !== -1) this.#state = { at: "head" };
    return begin !== -1;
  }

  #readHead(): boolean {
    const [head, name] = BOUND_HEAD.exec(this.#rest) ?? [];
    if (head === undefined || name === undefined) return false;
    this.#begin(String(JSON.parse(name)), "");
    this.#rest = this.#rest.slice(head.length);
    this.#state = { at: "arguments", scanner: new ArgumentScanner() };
    return true;
  }

  #readArguments(scanner: ArgumentScanner): boolean {
    const { length, isEnd } = scanner.scan(this.#rest);
    const args = this.#rest.slice(0, length);
    if (args !== "") this.#toolCalls.push({ index: this.#numCalls - 1, function: { arguments: args } });
    this.#rest = this.#rest.slice(length);
    if (isEnd) this.#state = { at: "tail" };
    return isEnd;
  }

  #readTail(): boolean {
    const end = this.#rest.indexOf(CALL_END);
    if (end === -1) return false;
    this.#rest = this.#rest.slice(end + CALL_END.length);
    this.#state = { at: "text" };
    return true;
  }

  /** Reads a complete call. Its strings may contain the end mark, so the text before an end mark must be JSON. */
  #readCall(): boolean {
    for (let end = this.#rest.indexOf(CALL_END); end !== -1; end = this.#rest.indexOf(CALL_END, end + 1)) {
      const call = parseCall(this.#rest.slice(0, end));
      if (!call) continue;
      this.#begin(call.name, call.args);
      this.#rest = this.#rest.slice(end + CALL_END.length);
      this.#state = { at: "text" };
      return true;
    }
    return false;
  }

  #endUnbound(): void {
    // Models often omit the last end mark.
    const call = parseCall(this.#rest);
    this.#state = { at: "text" };
    if (call) this.#begin(call.name, call.args);
    else this.#content += CALL_BEGIN + this.#rest;
  }

  #begin(name: string, args: string): void {
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
class ArgumentScanner {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;

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

function parseCall(text: string): { readonly name: string; readonly args: string } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { name, arguments: args, parameters }: Readonly<Record<string, unknown>> = { ...value };
  const given = args ?? parameters ?? {};
  if (typeof name !== "string" || typeof given !== "object") return undefined;
  return { name, args: JSON.stringify(given) };
}
