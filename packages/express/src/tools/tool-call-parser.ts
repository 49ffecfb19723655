// The parser of tool calls for a text that arrives in pieces, and calls in an answer.

import type { ToolCallForm } from "@readme-moe/core";
import type { Call, CallSink, ReadCalls } from "./call-bodies.ts";
import { type CallMarks, type FormReader, formReader } from "./call-forms.ts";
import { CallInput, isWithin, overlapLength, peek, type Reading, takeBlanks, takeMark } from "./call-input.ts";

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

export interface ToolCallParserOptions {
  /** Form of the model's calls. @default Hermes' */
  readonly form?: ToolCallForm | undefined;
  /** Schemas of the arguments, by the names of functions that may be called; other calls are content. */
  readonly tools: ReadonlyMap<string, unknown>;
  /**
   * Calls that a grammar binds: none, those in the model's own form, or all. Arguments of bound calls are passed on as
   * they arrive. Other calls are passed on when they are complete.
   */
  readonly bound: "none" | "own" | "all";
  /** Whether the text ends with its first call. @default false */
  readonly isSingle?: boolean | undefined;
  /** Creates the id of a call. */
  readonly newId: () => string;
}

/**
 * Takes tool calls out of a choice's text as it arrives, in time that is linear in the text. How the text is split into
 * pieces has no influence on the result. Text that only looks like a call stays content, byte for byte.
 */
export class ToolCallParser {
  readonly #options: ToolCallParserOptions;
  readonly #reader: FormReader;
  readonly #input = new CallInput();
  /** Reader of what may be a call, and its marks. */
  #open: { readonly marks: CallMarks; readonly reading: Reading<ReadCalls> } | undefined;
  #numCalls = 0;
  /** Number of calls when the open reader began. */
  #numBefore = 0;
  /** Whether only white space has come since the last call. */
  #isAfterCall = false;
  /** Whether only blanks have come since the line began. */
  #isOnLine = true;
  /** Whether the text is within a block of code without calls. */
  #isInBlock = false;
  #isCut = false;
  #isOver = false;
  #content = "";
  #toolCalls: ToolCallDelta[] = [];

  constructor(options: ToolCallParserOptions) {
    this.#options = options;
    this.#reader = formReader(options.form);
  }

  /** Whether the text has calls and does not end within one. */
  get calledTools(): boolean {
    return this.#numCalls > 0 && !this.#isWithinCall && !this.#isCut;
  }

  /** Whether text has come behind the only call, so that the rest of the answer does not count. */
  get isOver(): boolean {
    return this.#isOver;
  }

  get #isDone(): boolean {
    return this.#options.isSingle === true && this.#numCalls > 0 && !this.#open;
  }

  /** Whether a part of an unfinished call was passed on. */
  get #isWithinCall(): boolean {
    return this.#open !== undefined && this.#numCalls > this.#numBefore;
  }

  push(text: string): ParsedOutput {
    this.#input.rest += text;
    while (this.#advance()) continue;
    const output = { content: this.#content, toolCalls: this.#toolCalls };
    [this.#content, this.#toolCalls] = ["", []];
    return output;
  }

  /** Passes on the rest of the text. */
  end(): ParsedOutput {
    this.#input.isEnded = true;
    return this.push("");
  }

  /** @returns whether the rest may contain more to read */
  #advance(): boolean {
    if (this.#isDone) {
      this.#isOver ||= this.#input.rest.trim() !== "";
      this.#input.rest = "";
      return false;
    }
    return this.#open ? this.#readCalls() : this.#readText();
  }

  #readText(): boolean {
    const input = this.#input;
    const { begins, pattern } = this.#reader;
    const found = pattern.exec(input.rest);
    if (!found) {
      this.#passText(input.rest.length - (input.isEnded ? 0 : overlapLength(input.rest, begins)));
      return false;
    }
    this.#passText(found.index);
    const [begin] = found;
    const mayGrow = begins.some((mark) => mark.length > begin.length && isWithin(input.rest, mark));
    if (mayGrow && !input.isEnded) return false;
    const marks = this.#reader.marks.get(begin);
    const isBlockEnd = marks?.isFence === true && this.#isInBlock;
    if (!marks || isBlockEnd || (marks.isOnLine && !this.#isOnLine)) {
      if (isBlockEnd) this.#isInBlock = false;
      this.#passText(begin.length);
      return true;
    }
    if (!marks.isOnLine) input.take(begin.length);
    this.#numBefore = this.#numCalls;
    this.#open = { marks, reading: this.#reading(marks) };
    return true;
  }

  *#reading(marks: CallMarks): Reading<ReadCalls> {
    const input = this.#input;
    yield* takeBlanks(input);
    const first = yield* peek(input);
    const body = marks.bodies.find(([pattern]) => pattern.test(first))?.[1];
    const calls = body && (yield* body({ input, tools: this.#options.tools, sink: this.#sinkOf(marks) }));
    if (!calls) return undefined;
    yield* takeBlanks(input);
    yield* takeMark(input, marks.ends ?? []);
    return calls;
  }

  #sinkOf(marks: CallMarks): CallSink | undefined {
    const { bound } = this.#options;
    if (bound === "none" || (bound === "own" && marks !== this.#reader.form)) return undefined;
    return {
      begin: (call) => this.#begin(call),
      pass: (args) => this.#toolCalls.push({ index: this.#numCalls - 1, function: { arguments: args } }),
    };
  }

  /** @returns whether the reader has ended */
  #readCalls(): boolean {
    if (!this.#open) return false;
    const { marks, reading } = this.#open;
    const { done, value: calls } = reading.next();
    if (!done) return false;
    const { isEnded, held } = this.#input;
    const wasPassed = this.#isWithinCall;
    this.#open = undefined;
    this.#input.clear();
    if (calls) for (const call of this.#options.isSingle ? calls.slice(0, 1) : calls) this.#begin(call);
    else if (wasPassed || (isEnded && this.#isBoundMark(marks))) this.#isCut = isEnded;
    else this.#addText(held);
    this.#isInBlock ||= marks.isFence === true && calls === undefined;
    return true;
  }

  /** Whether a grammar binds what follows these marks to be a call. */
  #isBoundMark(marks: CallMarks): boolean {
    return (
      this.#options.bound !== "none" && marks === this.#reader.form && this.#reader.form.written.trigger !== undefined
    );
  }

  #passText(length: number): void {
    this.#addText(this.#input.take(length));
    this.#input.clear();
  }

  #begin({ name, args }: Call): void {
    const id = this.#options.newId();
    [this.#isAfterCall, this.#isOnLine] = [true, true];
    this.#toolCalls.push({ index: this.#numCalls++, id, type: "function", function: { name, arguments: args } });
  }

  /** Adds text to the content, without white space that follows a call. */
  #addText(text: string): void {
    const content = this.#isAfterCall ? text.trimStart() : text;
    if (content !== "") this.#isAfterCall = false;
    this.#content += content;
    const line = text.slice(text.lastIndexOf("\n") + 1);
    this.#isOnLine = (this.#isOnLine || line.length < text.length) && line.trim() === "";
  }
}
