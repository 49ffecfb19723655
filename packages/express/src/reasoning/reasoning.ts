// Reasoning of a chat: how much of it a request wants, where it begins, what bounds it, and how the text between
// `<think>` and `</think>` at an answer's beginning is split off.

import type { ChatPrompt, Engine, ProcessLogits } from "@readme-moe/core";
import { type Constraint, limitReasoning, type ReasoningRule } from "@readme-moe/grammar";

/** Efforts of OpenAI's APIs, as the share of the completion's tokens that reasoning may use at most. */
const SHARES = { none: 0, minimal: 0.1, low: 0.2, medium: 0.5, high: 0.8, xhigh: 0.95, max: 1 } as const;

type ReasoningEffort = keyof typeof SHARES;
export const REASONING_EFFORTS = Object.keys(SHARES) as readonly ReasoningEffort[] as readonly [
  ReasoningEffort,
  ...ReasoningEffort[],
];

interface ReasoningFields {
  readonly reasoning_effort?: ReasoningEffort | null | undefined;
  readonly thinking_token_budget?: number | null | undefined;
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null | undefined;
}

/** Reasoning that a request allows, and how its template is told. */
interface ReasoningBudget {
  /** Largest number of tokens of reasoning. @default no limit of its own */
  readonly budgetTokens: number | undefined;
  /** Variables of the chat template. */
  readonly template: Readonly<Record<string, unknown>>;
}

/**
 * Returns the reasoning that a request allows. Templates have no common name for the switch, so both usual ones are
 * set; variables that the request gives itself go first.
 *
 * @param maxTokens - limit of the completion's tokens
 */
export function reasoningBudget(fields: ReasoningFields, maxTokens: number): ReasoningBudget {
  const { reasoning_effort: effort, thinking_token_budget: budget, chat_template_kwargs: own } = fields;
  const isOff = effort === "none" || budget === 0 || own?.["enable_thinking"] === false || own?.["thinking"] === false;
  const isNamed = isOff || effort != null || budget != null;
  const switches = isNamed ? { enable_thinking: !isOff, thinking: !isOff } : {};
  const byEffort = effort == null || effort === "max" ? undefined : Math.floor(SHARES[effort] * maxTokens);
  const budgetTokens = isOff ? 0 : (budget ?? byEffort);
  return { budgetTokens, template: { ...switches, ...own } };
}

/** Tokens of the marks, and of the texts that are forced after reasoning. */
type MarkTokens = Pick<ReasoningRule, "beginId" | "endId" | "gapIds"> & {
  readonly closingIds: readonly number[];
  readonly bareClosingIds: readonly number[];
};

export interface ChatReasoning {
  /** Creates the parser of one choice; `undefined` where answers have no reasoning. */
  readonly newParser: (() => ReasoningParser) | undefined;
  /** Token that ends reasoning, if it is one token. */
  readonly endId: number | undefined;
  /** Creates what binds the answers; `undefined` where they are free. */
  readonly newProcessor: (() => ProcessLogits) | undefined;
}

interface ReasoningDemand {
  readonly prompt: ChatPrompt;
  /** Largest number of tokens of reasoning. @default no limit */
  readonly budgetTokens: number | undefined;
  /** Grammar of the content. @default it is free */
  readonly constraint: Constraint | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Opens the reasoning of a chat. Models whose marks are several tokens have no budget, and reason only in free answers.
 *
 * @throws {ReadMeError} as `Engine.applyTemplate`
 */
export async function openReasoning(engine: Engine, demand: ReasoningDemand): Promise<ChatReasoning> {
  const { prompt, budgetTokens, constraint, signal } = demand;
  const bind = constraint && ((): ProcessLogits => constraint.processor({ signal }));
  if (!engine.info.reasons) return { newParser: undefined, endId: undefined, newProcessor: bind };
  const { messages, template } = prompt;
  const start = reasoningStart(await engine.applyTemplate(messages, template));
  const marks = await markTokens(engine);
  if (start === "behind" || (constraint && !marks))
    return { newParser: undefined, endId: undefined, newProcessor: bind };
  const newParser = (): ReasoningParser => new ReasoningParser(start);
  if (!marks) return { newParser, endId: undefined, newProcessor: undefined };
  const rule = ruleOf(engine, marks, start, budgetTokens);
  const isBounded = constraint !== undefined || budgetTokens !== undefined;
  return {
    newParser,
    endId: marks.endId,
    newProcessor: isBounded ? () => limitReasoning({ ...rule, bound: bind?.() }) : undefined,
  };
}

function ruleOf(
  { info }: Engine,
  { beginId, endId, gapIds, closingIds, bareClosingIds }: MarkTokens,
  start: ReasoningStart,
  budgetTokens: number | undefined,
): ReasoningRule {
  return {
    vocabSize: info.vocabSize,
    beginId,
    endId,
    isOpen: start === "within",
    budgetTokens,
    // The text before reasoning that is never begun already ends with a line break.
    closingIds: budgetTokens === 0 ? bareClosingIds : closingIds,
    gapIds,
    eosTokenIds: info.eosTokenIds,
  };
}

const known = new WeakMap<Engine, Promise<MarkTokens | undefined>>();

/** Returns the tokens of the marks, or `undefined` where a mark is not one token. Asked once per engine. */
function markTokens(engine: Engine): Promise<MarkTokens | undefined> {
  const asked = known.get(engine) ?? askMarks(engine);
  known.set(engine, asked);
  asked.catch(() => known.delete(engine));
  return asked;
}

async function askMarks(engine: Engine): Promise<MarkTokens | undefined> {
  const tokensOf = async (text: string): Promise<readonly number[]> =>
    Array.from(await engine.tokenize(text, { addSpecialTokens: false }));
  const [begin, end, gapIds, closingIds, bareClosingIds] = await Promise.all([
    tokensOf(THINK_BEGIN),
    tokensOf(THINK_END),
    tokensOf("\n\n"),
    tokensOf(`\n${THINK_END}\n\n`),
    tokensOf(`${THINK_END}\n\n`),
  ]);
  const [beginId, endId] = [begin[0], end[0]];
  if (begin.length !== 1 || end.length !== 1 || beginId === undefined || endId === undefined) return undefined;
  return { beginId, endId, gapIds, closingIds, bareClosingIds };
}

const THINK_BEGIN = "<think>";
const THINK_END = "</think>";

/** Place where an answer begins: within reasoning that the prompt has begun, before it, or behind it. */
export type ReasoningStart = "within" | "before" | "behind";

/** Finds where the answer to a prompt begins. @param prompt - text of the prompt, or its end */
export function reasoningStart(prompt: string): ReasoningStart {
  const end = prompt.slice(-64).trimEnd();
  if (end.endsWith(THINK_BEGIN)) return "within";
  return end.endsWith(THINK_END) ? "behind" : "before";
}

interface SplitText {
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
