// Reasoning at an answer's beginning, between two marks such as `<think>` and `</think>`.

import { REASONING_FORMS, type ReasoningForm } from "@readme-moe/core";

/** Place where an answer begins: within reasoning that the prompt has begun, before it, or behind it. */
export type ReasoningStart = "within" | "before" | "behind";

/** Forms whose reasoning stands between two marks. */
type PairForm = Exclude<ReasoningForm, "harmony">;

/** Finds where the answer to a prompt begins. @param prompt - text of the prompt, or its end */
export function reasoningStart(prompt: string, form: PairForm = "think"): ReasoningStart {
  const { begin, end, label = "" } = REASONING_FORMS[form];
  const text = prompt.slice(-64).trimEnd();
  if (text.endsWith(begin + label)) return "within";
  return text.endsWith(end) ? "behind" : "before";
}

interface SplitText {
  readonly reasoning: string;
  readonly content: string;
}

/** Splits an answer into reasoning and content as its text arrives; how the text is cut has no influence on that. */
export interface AnswerSplitter {
  /** Whether the text so far ends within reasoning. */
  readonly isReasoning: boolean;
  push(text: string): SplitText;
  /** Passes on the rest of the text. */
  end(): SplitText;
}

/** Splits off the reasoning between two marks, in time that is linear in the text. White space around it is dropped. */
export class ReasoningParser implements AnswerSplitter {
  #at: "start" | "reasoning" | "gap" | "content";
  /** White space that was read and is not passed on yet. */
  #blank = "";
  /** Text behind it that may begin a mark. */
  #rest = "";
  #hasBegun = false;
  readonly #begin: string;
  readonly #end: string;

  constructor(start: ReasoningStart, form: PairForm = "think") {
    const { begin, end, label = "" } = REASONING_FORMS[form];
    this.#begin = begin + label;
    this.#end = end;
    this.#at = start === "within" ? "reasoning" : start === "before" ? "start" : "content";
  }

  get isReasoning(): boolean {
    return this.#at === "reasoning";
  }

  push(text: string): SplitText {
    this.#rest += text;
    let reasoning = "";
    if (this.#at === "start") this.#readStart();
    if (this.#at === "reasoning") reasoning = this.#readReasoning();
    if (this.#at === "gap") this.#readGap();
    if (this.#at !== "content") return { reasoning, content: "" };
    return { reasoning, content: this.#take() };
  }

  end(): SplitText {
    const isReasoning = this.isReasoning;
    const isContent = this.#at === "start";
    if (isReasoning && this.#rest === "") this.#blank = "";
    const rest = this.#take();
    return { reasoning: isReasoning ? rest : "", content: isContent ? rest : "" };
  }

  #take(): string {
    const text = this.#blank + this.#rest;
    [this.#blank, this.#rest] = ["", ""];
    return text;
  }

  #readStart(): void {
    const text = trimStart(this.#rest);
    this.#blank += this.#rest.slice(0, this.#rest.length - text.length);
    this.#rest = text;
    if (text.startsWith(this.#begin)) {
      this.#blank = "";
      this.#rest = text.slice(this.#begin.length);
      this.#at = "reasoning";
    } else if (!this.#begin.startsWith(text)) this.#at = "content";
  }

  #readReasoning(): string {
    const end = this.#rest.indexOf(this.#end);
    // White space and a beginning of the end mark are held back, since both may belong to the end.
    const read = end === -1 ? withoutOverlap(this.#rest, [this.#end]) : this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end === -1 ? read.length : end + this.#end.length);
    const part = this.#hasBegun ? read : trimStart(read);
    const text = trimEnd(part);
    const passed = text === "" ? "" : this.#blank + text;
    this.#blank = (text === "" ? this.#blank : "") + part.slice(text.length);
    this.#hasBegun ||= text !== "";
    if (end !== -1) [this.#at, this.#blank] = ["gap", ""];
    return passed;
  }

  #readGap(): void {
    this.#rest = trimStart(this.#rest);
    if (this.#rest !== "") this.#at = "content";
  }
}

/** Removes the longest end of `text` that is a beginning of one of the marks. */
function withoutOverlap(text: string, marks: readonly string[]): string {
  const most = Math.max(...marks.map((mark) => mark.length)) - 1;
  for (let length = Math.min(text.length, most); length > 0; length--) {
    const end = text.slice(-length);
    if (marks.some((mark) => mark.length > length && mark.startsWith(end))) return text.slice(0, -length);
  }
  return text;
}

function trimStart(text: string): string {
  return text.replace(/^[ \t\r\n]+/, "");
}

function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && " \t\r\n".includes(text.charAt(end - 1))) end--;
  return text.slice(0, end);
}

// Answers in channels (gpt-oss): messages that follow each other, each with a header, of analysis, of calls or of the
// answer itself. Source: the format "harmony" as OpenAI describes it.

const MESSAGE = "<|message|>";
/** Marks that end a message. */
const ENDS = ["<|end|>", "<|call|>", "<|return|>", "<|start|>"] as const;
/** Beginnings of headers; the first message of an answer has the role in the prompt. */
const HEADERS = ["<|start|>", "<|channel|>", " to="] as const;
/** Length of the longest header; what is longer is text. */
const MOST_HEADER = 512;

/**
 * Splits messages of an answer: the channel "analysis" is reasoning, a message to a function stays as it is written for
 * the parser of calls, and all others are content. Text without a header is content.
 */
export class ChannelParser implements AnswerSplitter {
  #at: "header" | "reasoning" | "content" | "call" = "header";
  #rest = "";
  /** Whether there is reasoning, which a line break parts from that of a further message. */
  #hasReasoned = false;
  #isFurther = false;

  /** @param prompt - text in front of the answer, which may end within a message */
  constructor(prompt: string) {
    const start = prompt.lastIndexOf("<|start|>");
    const header = start === -1 ? "" : prompt.slice(start).replace(/^<\|start\|>\w*/, "");
    if (!ENDS.some((end) => header.includes(end))) this.push(header);
  }

  get isReasoning(): boolean {
    return this.#at === "reasoning";
  }

  push(text: string): SplitText {
    this.#rest += text;
    const split = { reasoning: "", content: "" };
    while (this.#at === "header" ? this.#readHeader(split) : this.#readBody(split));
    return split;
  }

  end(): SplitText {
    const { isReasoning } = this;
    // A header without a message says nothing.
    const rest = this.#at === "header" && HEADERS.some((begin) => this.#rest.startsWith(begin)) ? "" : this.#rest;
    this.#rest = "";
    return { reasoning: isReasoning ? rest : "", content: isReasoning ? "" : rest };
  }

  /** @returns whether a message has begun, whose text is next */
  #readHeader(split: { reasoning: string; content: string }): boolean {
    const rest = this.#rest;
    if (rest === "") return false;
    const isHeader = HEADERS.some((begin) => rest.startsWith(begin) || begin.startsWith(rest));
    const end = rest.indexOf(MESSAGE);
    if (!isHeader || end > MOST_HEADER || (end === -1 && rest.length > MOST_HEADER)) {
      this.#at = "content";
      return true;
    }
    if (end === -1) return false;
    const [header, behind] = [rest.slice(0, end), end + MESSAGE.length];
    const isCall = header.includes("to=functions.");
    if (isCall) split.content += rest.slice(0, behind);
    this.#rest = rest.slice(behind);
    this.#at = isCall ? "call" : header.includes("<|channel|>analysis") ? "reasoning" : "content";
    return true;
  }

  /** @returns whether the message has ended, so that a header is next */
  #readBody(split: { reasoning: string; content: string }): boolean {
    const rest = this.#rest;
    const ends = ENDS.map((mark) => [rest.indexOf(mark), mark] as const).filter(([at]) => at >= 0);
    const [end] = ends.toSorted(([a], [b]) => a - b);
    const text = end ? rest.slice(0, end[0]) : withoutOverlap(rest, ENDS);
    if (this.#at !== "reasoning") split.content += text;
    else if (text !== "") {
      split.reasoning += (this.#isFurther ? "\n" : "") + text;
      [this.#hasReasoned, this.#isFurther] = [true, false];
    }
    this.#rest = rest.slice(text.length);
    if (!end) return false;
    const [, mark] = end;
    if (mark !== "<|start|>") this.#rest = this.#rest.slice(mark.length);
    if (this.#at === "call" && mark === "<|call|>") split.content += mark;
    if (this.#at === "reasoning") this.#isFurther = this.#hasReasoned;
    this.#at = "header";
    return true;
  }
}
