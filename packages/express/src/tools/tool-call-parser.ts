// Takes calls of tools out of a model's text as it comes. How the text is split makes no difference to what comes of it.

import type { OutputParser, ParsedOutput, ToolCallDelta } from "./output-parser.ts";
import { ArgumentScanner } from "./argument-scanner.ts";
import { CALL_BEGIN, CALL_END } from "./call-format.ts";

export interface ToolCallParserOptions {
  /**
   * The text was bound to the shape of calls, so that their arguments can be told as they come. Other text is told when
   * a call is whole, and stays content where it is none.
   */
  readonly isBound: boolean;
  /** Names a call for the client. */
  readonly newId: () => string;
}

/** Up to the arguments, as calls are written that are bound. */
const CALL_HEAD = /^\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": /;

type State =
  | { readonly at: "text" }
  | { readonly at: "head" }
  | { readonly at: "arguments"; readonly scanner: ArgumentScanner }
  | { readonly at: "tail" };

export class ToolCallParser implements OutputParser {
  readonly #options: ToolCallParserOptions;
  #state: State = { at: "text" };
  #rest = ""; // not yet told
  #numCalls = 0;
  /** Nothing but line ends and blanks has come since a call. */
  #isAfterCall = false;
  #content = "";
  #toolCalls: ToolCallDelta[] = [];

  constructor(options: ToolCallParserOptions) {
    this.#options = options;
  }

  /** There were calls, and the text did not end in the middle of one. */
  get calledTools(): boolean {
    return this.#numCalls > 0 && this.#state.at === "text";
  }

  push(text: string): ParsedOutput {
    this.#rest += text;
    while (this.#advance()) continue;
    return this.#take();
  }

  end(): ParsedOutput {
    if (this.#state.at === "text") this.#tellText(this.#rest);
    else if (this.#state.at === "head" && !this.#options.isBound) this.#endUnbound();
    this.#rest = "";
    return this.#take();
  }

  /** @returns whether there may be more to do */
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
    const end = begin === -1 ? this.#rest.length - heldBack(this.#rest, CALL_BEGIN) : begin;
    this.#tellText(this.#rest.slice(0, end));
    this.#rest = this.#rest.slice(begin === -1 ? end : begin + CALL_BEGIN.length);
    if (begin !== -1) this.#state = { at: "head" };
    return begin !== -1;
  }

  #readHead(): boolean {
    const head = CALL_HEAD.exec(this.#rest);
    if (!head) return false;
    this.#begin(JSON.parse(head[1] as string) as string, "");
    this.#rest = this.#rest.slice(head[0].length);
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

  /** A whole call. Its strings may hold what ends calls, so an end counts only where the call is JSON. */
  #readCall(): boolean {
    for (let end = this.#rest.indexOf(CALL_END); end !== -1; end = this.#rest.indexOf(CALL_END, end + 1)) {
      const call = readCall(this.#rest.slice(0, end));
      if (!call) continue;
      this.#begin(call.name, call.args);
      this.#rest = this.#rest.slice(end + CALL_END.length);
      this.#state = { at: "text" };
      return true;
    }
    return false;
  }

  #endUnbound(): void {
    // Models often leave out the last end.
    const call = readCall(this.#rest);
    this.#state = { at: "text" };
    if (call) this.#begin(call.name, call.args);
    else this.#content += CALL_BEGIN + this.#rest;
  }

  #begin(name: string, args: string): void {
    const id = this.#options.newId();
    this.#isAfterCall = true;
    this.#toolCalls.push({ index: this.#numCalls++, id, type: "function", function: { name, arguments: args } });
  }

  /** Line ends and blanks after a call are no content. */
  #tellText(text: string): void {
    const told = this.#isAfterCall ? text.trimStart() : text;
    if (told !== "") this.#isAfterCall = false;
    this.#content += told;
  }

  #take(): ParsedOutput {
    const told = { content: this.#content, toolCalls: this.#toolCalls };
    [this.#content, this.#toolCalls] = ["", []];
    return told;
  }
}

/** How much of the end of `text` may be the beginning of `mark`. */
function heldBack(text: string, mark: string): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length--) {
    if (mark.startsWith(text.slice(-length))) return length;
  }
  return 0;
}

function readCall(text: string): { readonly name: string; readonly args: string } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { name, arguments: args, parameters } = value as Readonly<Record<string, unknown>>;
  const given = args ?? parameters ?? {};
  if (typeof name !== "string" || typeof given !== "object") return undefined;
  return { name, args: JSON.stringify(given) };
}
