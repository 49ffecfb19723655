// Changes of logits before a token is chosen: bias, masks and penalties.

import type { ResolvedSamplingParams } from "./sampling-params.ts";

/** Counts of the tokens of one sequence; penalties depend on them. The sequence keeps them up to date. */
export class TokenCounts {
  /** Distinct ids of the prompt. */
  readonly prompt: ReadonlySet<number>;
  readonly #completion = new Map<number, number>();
  #numCompletionTokens = 0;

  constructor(promptIds: Iterable<number> = []) {
    this.prompt = new Set(promptIds);
  }

  /** Number of occurrences of each id of the completion, in the order of first occurrence. */
  get completion(): ReadonlyMap<number, number> {
    return this.#completion;
  }

  get numCompletionTokens(): number {
    return this.#numCompletionTokens;
  }

  /** Counts the completion's next token. */
  add(id: number): void {
    this.#completion.set(id, (this.#completion.get(id) ?? 0) + 1);
    this.#numCompletionTokens++;
  }
}

const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** Whether bias or penalties would change any logit; masks are not considered. */
export function changesLogits(params: ResolvedSamplingParams, counts: TokenCounts): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  if (logitBias.size > 0) return true;
  const hasCompletion = counts.completion.size > 0;
  if (repetitionPenalty !== 1 && (hasCompletion || counts.prompt.size > 0)) return true;
  return (presencePenalty !== 0 || frequencyPenalty !== 0) && hasCompletion;
}

const NONE: ReadonlySet<number> = new Set();

/** Lists the tokens that must not be chosen now: those that end a completion, until it has `minTokens`. */
export function maskedTokens(params: ResolvedSamplingParams, counts: TokenCounts): ReadonlySet<number> {
  return counts.numCompletionTokens < params.minTokens ? params.maskedUntilMinTokens : NONE;
}

/**
 * Changes a row of logits in place, in vLLM's order: bias is added; masked tokens get `-Infinity`; the repetition
 * penalty divides positive logits and multiplies the others; frequency and presence penalties are subtracted. The
 * arithmetic is float64, rounded when stored.
 *
 * The repetition penalty applies to tokens of prompt and completion (CTRL, arXiv 1909.05858, section 4.1), the other
 * penalties to tokens of the completion alone, as OpenAI's do.
 *
 * @param logits - `[vocabSize]`
 */
export function applyPenalties(logits: Float32Array, params: ResolvedSamplingParams, counts: TokenCounts): void {
  const { logitBias, repetitionPenalty, presencePenalty, frequencyPenalty } = params;
  const change = (id: number, changed: (logit: number) => number): void => {
    const logit = logits[id];
    if (logit !== undefined) logits[id] = changed(logit);
  };
  for (const [id, bias] of logitBias) change(id, (logit) => logit + bias);
  for (const id of maskedTokens(params, counts)) logits[id] = -Infinity;
  if (repetitionPenalty !== 1) {
    for (const id of counts.prompt) {
      if (!counts.completion.has(id)) change(id, (logit) => repeated(logit, repetitionPenalty));
    }
  }
  for (const [id, count] of counts.completion) {
    change(id, (logit) => repeated(logit, repetitionPenalty) - frequencyPenalty * count - presencePenalty);
  }
}

/** Runs `action` while bias, masks and penalties are applied to `logits`, then restores `logits`. */
export function withPenalties<Result>(
  logits: Float32Array,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  action: () => Result,
): Result {
  const ids = touchedTokens(params, counts);
  const before = Float32Array.from(ids, (id) => logits[id] ?? 0);
  try {
    applyPenalties(logits, params, counts);
    return action();
  } finally {
    for (const [index, id] of ids.entries()) logits[id] = before[index] ?? 0;
  }
}

/** Lists the ids whose logits `applyPenalties` may change; an id may occur more than once. */
function touchedTokens(params: ResolvedSamplingParams, counts: TokenCounts): readonly number[] {
  const ids = [...params.logitBias.keys(), ...maskedTokens(params, counts), ...counts.completion.keys()];
  return params.repetitionPenalty === 1 ? ids : ids.concat([...counts.prompt]);
}

function repeated(logit: number, penalty: number): number {
  // A penalty near 0 must not make a logit infinite: the difference of two infinities would be NaN.
  return logit > 0 ? Math.min(logit / penalty, MAX_FLOAT32) : logit * penalty;
}
