// Reasoning of a chat: how much of it a request wants, where it begins, and what bounds it.

import {
  type ChatPrompt,
  type Engine,
  type ProcessLogits,
  REASONING_FORMS,
  type ReasoningForm,
} from "@readme-moe/core";
import { type Constraint, limitReasoning, type ReasoningRule } from "@readme-moe/grammar";
import {
  type AnswerSplitter,
  ChannelParser,
  ReasoningParser,
  type ReasoningStart,
  reasoningStart,
} from "./reasoning-parser.ts";

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
 * @param form - how the model writes reasoning
 */
export function reasoningBudget(fields: ReasoningFields, maxTokens: number, form?: ReasoningForm): ReasoningBudget {
  const { reasoning_effort: effort, thinking_token_budget: budget, chat_template_kwargs: own } = fields;
  const isOff = effort === "none" || budget === 0 || own?.["enable_thinking"] === false || own?.["thinking"] === false;
  const isNamed = isOff || effort != null || budget != null;
  const switches = isNamed ? { enable_thinking: !isOff, thinking: !isOff } : {};
  const byEffort = effort == null || effort === "max" ? undefined : Math.floor(SHARES[effort] * maxTokens);
  const budgetTokens = isOff ? 0 : (budget ?? byEffort);
  const level = effort == null ? undefined : form === "harmony" ? LEVELS[effort] : effort;
  const named = level === undefined ? {} : { reasoning_effort: level };
  return { budgetTokens, template: { ...switches, ...named, ...own } };
}

/** Efforts that models whose answers have channels know. */
const LEVELS = { none: "low", minimal: "low", low: "low", medium: "medium", high: "high", xhigh: "high", max: "high" };

/** Tokens of the marks, and of the texts that are forced after reasoning. */
type MarkTokens = Pick<ReasoningRule, "beginId" | "endId" | "gapIds"> & {
  readonly closingIds: readonly number[];
  readonly bareClosingIds: readonly number[];
};

export interface ChatReasoning {
  /** Creates the parser of one choice; `undefined` where answers have no reasoning. */
  readonly newParser: (() => AnswerSplitter) | undefined;
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
 * Nor have models whose answers have channels a budget, which reason also where calls are bound.
 *
 * @throws {ReadMeError} as `Engine.applyTemplate`
 */
export async function openReasoning(engine: Engine, demand: ReasoningDemand): Promise<ChatReasoning> {
  const { prompt, budgetTokens, constraint, signal } = demand;
  const bind = constraint && ((): ProcessLogits => constraint.processor({ signal }));
  const { reasoningForm: form } = engine.info;
  if (!form) return { newParser: undefined, endId: undefined, newProcessor: bind };
  const { messages, template } = prompt;
  const text = await engine.applyTemplate(messages, template);
  if (form === "harmony") return { newParser: () => new ChannelParser(text), endId: undefined, newProcessor: bind };
  const start = reasoningStart(text, form);
  const marks = await markTokens(engine, form);
  if (start === "behind" || (constraint && !marks))
    return { newParser: undefined, endId: undefined, newProcessor: bind };
  const newParser = (): ReasoningParser => new ReasoningParser(start, form);
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
function markTokens(engine: Engine, form: ReasoningForm): Promise<MarkTokens | undefined> {
  const asked = known.get(engine) ?? askMarks(engine, form);
  known.set(engine, asked);
  asked.catch(() => known.delete(engine));
  return asked;
}

async function askMarks(engine: Engine, form: ReasoningForm): Promise<MarkTokens | undefined> {
  const marks = REASONING_FORMS[form];
  const tokensOf = async (text: string): Promise<readonly number[]> =>
    Array.from(await engine.tokenize(text, { addSpecialTokens: false }));
  const [begin, end, gapIds, closingIds, bareClosingIds] = await Promise.all([
    tokensOf(marks.begin),
    tokensOf(marks.end),
    tokensOf("\n\n"),
    tokensOf(`\n${marks.end}\n\n`),
    tokensOf(`${marks.end}\n\n`),
  ]);
  const [beginId, endId] = [begin[0], end[0]];
  if (begin.length !== 1 || end.length !== 1 || beginId === undefined || endId === undefined) return undefined;
  return { beginId, endId, gapIds, closingIds, bareClosingIds };
}
