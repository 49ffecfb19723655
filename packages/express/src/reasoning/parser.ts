// Reasoning in a model's answer: the text between `<think>` and `</think>` at its beginning.

export const THINK_BEGIN = "<think>";
export const THINK_END = "</think>";

/** Place where an answer begins: within reasoning that the prompt has begun, before it, or behind it. */
export type ReasoningStart = "within" | "before" | "behind";

/** Finds where the answer to a prompt begins. @param prompt - text of the prompt, or its end */
export function reasoningStart(prompt: string): ReasoningStart {
  const end = prompt.slice(-64).trimEnd();
  if (end.endsWith(THINK_BEGIN)) return "within";
  return end.endsWith(THINK_END) ? "behind" : "before";
}

/** Parts of a piece of text. */
export interface SplitText {
  readonly reasoning: string;
  readonly content: string;
}

/**
 * Splits an answer into reasoning and content as its text arrives, in time that is linear in the text. White space
 * around the reasoning is dropped. How the text is cut into pieces has no influence on the result.
 */
export class ReasoningParser {
  #at: "start" | "reasoning" | "gap" | "content";
  /** White space that was read and is not passed on yet. */
  #blank = "";
  /** Text behind it that may begin a mark. */
  #rest = "";
  #hasBegun = false;

  constructor(start: ReasoningStart) {
    this.#at = start === "within" ? "reasoning" : start === "before" ? "start" : "content";
  }

  /** Whether the text so far ends within reasoning. */
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

  /** Passes on the rest of the text. */
  end(): SplitText {
    const isReasoning = this.isReasoning;
    const isContent = this.#at === "start";
    if (isReasoning && this.#rest === "") this.#blank = "";
    const rest = this.#take();
    return { reasoning: isReasoning ? rest : "", content: isContent ? rest : "" };
  }

  /** Takes all that is not passed on yet. */
  #take(): string {
    const text = this.#blank + this.#rest;
    [this.#blank, this.#rest] = ["", ""];
    return text;
  }

  #readStart(): void {
    const text = trimStart(this.#rest);
    this.#blank += this.#rest.slice(0, this.#rest.length - text.length);
    this.#rest = text;
    if (text.startsWith(THINK_BEGIN)) {
      this.#blank = "";
      this.#rest = text.slice(THINK_BEGIN.length);
      this.#at = "reasoning";
    } else if (!THINK_BEGIN.startsWith(text)) this.#at = "content";
  }

  #readReasoning(): string {
    const end = this.#rest.indexOf(THINK_END);
    // White space and a beginning of the end mark are held back, since both may belong to the end.
    const read = end === -1 ? withoutOverlap(this.#rest) : this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end === -1 ? read.length : end + THINK_END.length);
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

/** Removes the longest end of `text` that is a beginning of the end mark. */
function withoutOverlap(text: string): string {
  for (let length = Math.min(text.length, THINK_END.length - 1); length > 0; length--) {
    if (THINK_END.startsWith(text.slice(-length))) return text.slice(0, -length);
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
