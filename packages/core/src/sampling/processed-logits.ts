import type { LogitsRow } from "./logits-row.ts";
import { withPenalties } from "./penalties.ts";
import { chooseExactly, logprobOf, type SampledToken } from "./sample.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";
import type { TokenCounts } from "./token-counts.ts";

/**
 * Chooses as `sampleToken` does, but from logits that a caller has made of the row's.
 *
 * @param row - as the model gave it, with full logits; the log-probability is under this one
 * @param logits - `[vocabSize]`
 * @throws {RangeError} when the caller left NaN or `Infinity`, or no token
 * @throws {ReadMeError} `ERR_RUNTIME` when the parameters leave no token of those that the caller left
 */
export function sampleProcessed(
  row: LogitsRow,
  logits: Float32Array,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): SampledToken {
  checkProcessed(logits);
  // All logits always decide.
  const id = withPenalties(logits, params, counts, () => chooseExactly(logits, params, u)) as number;
  return { id, logprob: logprobOf(row.fullLogits?.[id] as number, row) };
}

function checkProcessed(logits: Float32Array): void {
  let isAnyLeft = false;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] as number;
    if (Number.isFinite(logit)) isAnyLeft = true;
    else if (logit !== -Infinity) {
      throw new RangeError(
        `Expected \`processLogits\` to leave numbers or \`-Infinity\`, got ${logit} for token ${id}`,
      );
    }
  }
  if (isAnyLeft) return;
  throw new RangeError("Expected `processLogits` to leave a token that can be chosen, got `-Infinity` for all");
}
