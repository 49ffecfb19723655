import {
  sampleProcessed,
  sampleToken,
  tokenLogprobs,
  uniformAt,
  type GeneratedToken,
  type LogitsRow,
} from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { Sequence } from "./sequence.ts";

/**
 * A sequence's next token. Draws from the seed, the choice and the position, so that neither neighbours nor
 * preemption change it.
 *
 * @param processed - what the sequence's caller made of the row's logits, where it has a say
 * @returns `undefined` when the row's candidates cannot decide, and all logits are needed
 * @throws {ReadMeError} `ERR_RUNTIME` when the logits are no numbers
 * @throws {RangeError} when the processed ones are no numbers, or leave no token
 */
export function chooseToken(
  row: LogitsRow,
  sequence: Sequence,
  tokenizer: Tokenizer,
  processed?: Float32Array,
): GeneratedToken | undefined {
  const { params, seed, choice, counts, completionTokens } = sequence;
  const u = uniformAt(seed, choice, completionTokens);
  const sampled = processed ? sampleProcessed(row, processed, params, counts, u) : sampleToken(row, params, counts, u);
  if (!sampled || params.logprobs === undefined) return sampled && { id: sampled.id };
  const { logprob, top } = tokenLogprobs(row, sampled, params.logprobs);
  return {
    id: sampled.id,
    logprob,
    topLogprobs: top.map((one) => ({ ...one, text: tokenizer.decode([one.id]) })),
  };
}
