// Bounds of reasoning as a constraint on tokens: a budget, and a grammar that binds what follows the reasoning.

import {
  forbidOthers,
  type AllowContext,
  type AllowedTokens,
  type ConstraintSource,
  type ProcessLogits,
} from "@readme-moe/core";

/** Tokens that reasoning consists of, and how long it may be. */
export interface ReasoningRule {
  readonly vocabSize: number;
  /** Tokens `<think>` and `</think>`. */
  readonly beginId: number;
  readonly endId: number;
  /** Whether the prompt has begun the reasoning. */
  readonly isOpen: boolean;
  /** Largest number of tokens of reasoning, without its marks. @default no limit */
  readonly budgetTokens?: number | undefined;
  /** Tokens that end reasoning whose budget is used up; `endId` is one of them. */
  readonly closingIds: readonly number[];
  /** Tokens that a bound answer has between the end of reasoning and its own beginning. */
  readonly gapIds: readonly number[];
  readonly eosTokenIds: readonly number[];
  /** Binds the answer behind the reasoning. @default it is free */
  readonly bound?: ProcessLogits | undefined;
}

/** Source of bounds of reasoning. Vocabulary and end tokens are those of the engine that it is for. */
export interface ReasoningSource extends Omit<ReasoningRule, "vocabSize" | "eosTokenIds" | "bound"> {
  readonly kind: "reasoning";
  readonly bound?: ConstraintSource | undefined;
}

/** Place of the next token. */
export type ReasoningPlace =
  | { readonly at: "start" }
  | { readonly at: "reasoning"; readonly used: number }
  | { readonly at: "forced"; readonly id: number }
  | { readonly at: "content"; readonly from: number };

/**
 * Finds the place behind the tokens of an answer. A pure function of the tokens.
 * @param tokens - tokens of the answer, without the prompt's
 */
export function reasoningPlace(tokens: ArrayLike<number>, rule: ReasoningRule): ReasoningPlace {
  const { beginId, endId, isOpen, budgetTokens = Infinity, closingIds, gapIds, bound } = rule;
  if (!isOpen && tokens.length === 0) return { at: "start" };
  if (!isOpen && tokens[0] !== beginId) return { at: "content", from: 0 };
  const first = isOpen ? 0 : 1;
  let next = first;
  while (next < tokens.length && next - first < budgetTokens && tokens[next] !== endId) next++;
  const used = next - first;
  const isEnded = next < tokens.length && used < budgetTokens;
  if (!isEnded && used < budgetTokens) return { at: "reasoning", used };
  // A budget that is used up forces the end; an end of the model's own choice is followed by the gap alone.
  const forced = isEnded ? (bound ? gapIds : []) : closingIds;
  const from = isEnded ? next + 1 : next;
  const numForced = tokens.length - from;
  const id = forced[numForced];
  return id === undefined ? { at: "content", from: from + forced.length } : { at: "forced", id };
}

/**
 * Creates the constraint. It answers with `allowTokens`, so that engines send no logits. It has a `source` unless
 * `bound` has none.
 */
export function limitReasoning(rule: ReasoningRule): ProcessLogits {
  const { vocabSize, beginId, eosTokenIds, budgetTokens = Infinity, bound } = rule;
  const numWords = Math.ceil(vocabSize / 32);
  const free = new Int32Array(numWords).fill(-1);
  // A bound answer must not end before it has begun.
  const reasoning = bound ? without(free, eosTokenIds) : free;
  const start = budgetTokens === 0 ? without(free, [beginId]) : free;

  const behind = async (context: AllowContext, from: number): Promise<AllowedTokens> => {
    if (!bound) return freely(context.draft, free);
    if (!bound.allowTokens) throw new TypeError("Expected a constraint with `allowTokens`");
    return bound.allowTokens({ ...context, promptTokens: context.promptTokens + from });
  };

  const allowTokens = async (context: AllowContext): Promise<AllowedTokens> => {
    const { tokenIds, promptTokens, draft } = context;
    const place = reasoningPlace(tokenIds.subarray(promptTokens), rule);
    switch (place.at) {
      case "content":
        return behind(context, place.from);
      case "forced":
        return { draft: new Int32Array(), numForced: 0, masks: [withToken(new Int32Array(numWords), place.id)] };
      case "reasoning": {
        const room = Math.max(0, budgetTokens - place.used - 1);
        const length = lengthBefore(draft, [rule.endId, ...eosTokenIds], room);
        return freely(draft.subarray(0, length), reasoning);
      }
      case "start": {
        if (!bound) return { draft: new Int32Array(), numForced: 0, masks: [start] };
        const { masks, ...own } = await behind(context, 0);
        if (budgetTokens === 0) return { masks, ...own };
        // The model may reason first, so nothing is forced here.
        const [first = free, ...others] = masks;
        return { ...own, numForced: 0, masks: [withToken(first, beginId), ...others] };
      }
      default:
        throw new TypeError(`Unknown place: ${String(place satisfies never)}`);
    }
  };

  const process: ProcessLogits = async (logits, context) => {
    const { masks } = await allowTokens({ ...context, draft: new Int32Array() });
    forbidOthers(logits, masks[0] ?? free);
  };
  return Object.assign(process, { allowTokens, source: sourceOf(rule) });
}

function sourceOf(rule: ReasoningRule): ReasoningSource | undefined {
  const { beginId, endId, isOpen, budgetTokens, closingIds, gapIds, bound } = rule;
  if (bound && !bound.source) return undefined;
  const kept = { kind: "reasoning", beginId, endId, isOpen, closingIds, gapIds } as const;
  return {
    ...kept,
    ...(budgetTokens === undefined ? {} : { budgetTokens }),
    ...(bound?.source ? { bound: bound.source } : {}),
  };
}

function freely(draft: Int32Array, mask: Int32Array): AllowedTokens {
  const kept = draft.slice(0, MAX_DRAFT);
  return { draft: kept, numForced: 0, masks: Array.from({ length: 1 + kept.length }, () => mask) };
}

/** Largest draft that an answer may have. */
const MAX_DRAFT = 32;

function lengthBefore(draft: Int32Array, ends: readonly number[], room: number): number {
  const end = draft.findIndex((id) => ends.includes(id));
  return Math.min(end === -1 ? draft.length : end, room);
}

function withToken(mask: Int32Array, id: number): Int32Array {
  const changed = mask.slice();
  changed[id >> 5] = (changed[id >> 5] ?? 0) | (1 << (id & 31));
  return changed;
}

function without(mask: Int32Array, ids: readonly number[]): Int32Array {
  const changed = mask.slice();
  for (const id of ids) changed[id >> 5] = (changed[id >> 5] ?? 0) & ~(1 << (id & 31));
  return changed;
}
