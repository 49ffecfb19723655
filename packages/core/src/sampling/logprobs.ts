import type { LogitsRow } from "./logits-row.ts";
import { bestLogits, type RankedLogits } from "./ranked-logits.ts";
import { logprobOf, type SampledToken } from "./sample.ts";

/** A chosen token, and what could have come in its place. */
export interface TokenLogprobs extends SampledToken {
  /** The most likely tokens, best first; the chosen one may be among them. Those that cannot occur are left out. */
  readonly top: readonly SampledToken[];
}

/**
 * Log-probabilities under the model's own distribution, before penalties and temperature, as vLLM reports them.
 *
 * @param count - how many of the most likely tokens, from 0
 * @throws {RangeError} when the row has neither so many candidates nor full logits
 */
export function tokenLogprobs(row: LogitsRow, chosen: SampledToken, count: number): TokenLogprobs {
  const { ids, logits } = ranking(row, count);
  const top: SampledToken[] = [];
  for (let index = 0; index < Math.min(count, ids.length); index++) {
    const logit = logits[index] as number;
    if (logit > -Infinity) top.push({ id: ids[index] as number, logprob: logprobOf(logit, row) });
  }
  return { ...chosen, top };
}

function ranking(
  { candidateIds, candidateLogits, fullLogits }: LogitsRow,
  count: number,
): Pick<RankedLogits, "ids" | "logits"> {
  if (candidateIds.length >= count) return { ids: candidateIds, logits: candidateLogits };
  if (fullLogits !== undefined) return bestLogits(fullLogits, count);
  throw new RangeError(`Expected the row to have ${count} candidates or full logits, got ${candidateIds.length}`);
}
