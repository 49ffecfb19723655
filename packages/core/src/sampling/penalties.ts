import type { ResolvedSamplingParams } from "./sampling-params.ts";
import type { TokenCounts } from "./token-counts.ts";

const MAX_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** Whether any logit would change, masks aside. */
export function changesLogits(params: ResolvedSamplingParams, counts: TokenCounts): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  if (logitBias.size > 0) return true;
  const hasCompletion = counts.completion.size > 0;
  if (repetitionPenalty !== 1 && (hasCompletion || counts.prompt.size > 0)) return true;
  return (presencePenalty !== 0 || frequencyPenalty !== 0) && hasCompletion;
}

const NONE: ReadonlySet<number> = new Set();

/** Tokens that may not be chosen now: those that end a completion, while it has fewer than `minTokens`. */
export function maskedTokens(params: ResolvedSamplingParams, counts: TokenCounts): ReadonlySet<number> {
  return counts.numCompletionTokens < params.minTokens ? params.maskedUntilMinTokens : NONE;
}

/**
 * Changes a row of logits in place, each token's in this order, which is vLLM's: bias is added, masked tokens get
 * `-Infinity`, the repetition penalty divides positive logits and multiplies others, frequency and presence
 * penalties are subtracted. Arithmetic is in float64, rounded when stored.
 *
 * Repetition looks at prompt and completion (CTRL, arXiv 1909.05858, section 4.1), the others at the completion
 * alone, as OpenAI's do.
 *
 * @param logits - `[vocabSize]`
 */
export function applyPenalties(logits: Float32Array, params: ResolvedSamplingParams, counts: TokenCounts): void {
  const { logitBias, repetitionPenalty, presencePenalty, frequencyPenalty } = params;
  for (const [id, bias] of logitBias) logits[id] = (logits[id] as number) + bias;
  for (const id of maskedTokens(params, counts)) logits[id] = -Infinity;
  if (repetitionPenalty !== 1) {
    for (const id of counts.prompt) {
      if (!counts.completion.has(id)) logits[id] = repeated(logits[id] as number, repetitionPenalty);
    }
  }
  for (const [id, count] of counts.completion) {
    const logit = repeated(logits[id] as number, repetitionPenalty);
    logits[id] = logit - frequencyPenalty * count - presencePenalty;
  }
}

/** Runs `action` while penalties, bias and masks are applied to `logits`, then puts these back. */
export function withPenalties<Result>(
  logits: Float32Array,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  action: () => Result,
): Result {
  const ids = touchedTokens(params, counts);
  const before = Float32Array.from(ids, (id) => logits[id] as number);
  try {
    applyPenalties(logits, params, counts);
    return action();
  } finally {
    for (const [index, id] of ids.entries()) logits[id] = before[index] as number;
  }
}

/** Ids whose logits `applyPenalties` may change; some more than once. */
function touchedTokens(params: ResolvedSamplingParams, counts: TokenCounts): readonly number[] {
  const ids = [...params.logitBias.keys(), ...maskedTokens(params, counts), ...counts.completion.keys()];
  return params.repetitionPenalty === 1 ? ids : ids.concat([...counts.prompt]);
}

function repeated(logit: number, penalty: number): number {
  // A penalty near 0 must not make a logit infinite: the difference of two such would be NaN.
  return logit > 0 ? Math.min(logit / penalty, MAX_FLOAT32) : logit * penalty;
}
