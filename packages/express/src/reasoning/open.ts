// Reasoning of one chat: where its answers begin, how they are split, and what bounds them.

import type { ChatPrompt, Engine, ProcessLogits } from "@readme-moe/core";
import { limitReasoning, type Constraint, type ReasoningRule } from "@readme-moe/grammar";
import { ReasoningParser, reasoningStart, THINK_BEGIN, THINK_END, type ReasoningStart } from "./parser.ts";

/** Tokens of the marks, and of the texts that are forced after reasoning. */
type MarkTokens = Pick<ReasoningRule, "beginId" | "endId" | "gapIds"> & {
  readonly closingIds: readonly number[];
  readonly bareClosingIds: readonly number[];
};

/** Reasoning of the answers to one chat. */
export interface ChatReasoning {
  /** Creates the parser of one choice; `undefined` where answers have no reasoning. */
  readonly newParser: (() => ReasoningParser) | undefined;
  /** Token that ends reasoning, if it is one token. */
  readonly endId: number | undefined;
  /** Creates what binds the answers; `undefined` where they are free. */
  readonly newProcessor: (() => ProcessLogits) | undefined;
}

/** Chat whose reasoning is opened, and its bounds. */
export interface ReasoningDemand {
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
