// Long texts as sequences of tokens that a model can be measured on, or learn from.

import type { Tokenizer } from "./tokenizer.ts";

/**
 * Cuts the tokens of a text into sequences of `length`. Each begins with the tokens that the model expects before a
 * text, such as a BOS token: models that were made with one predict little without it.
 *
 * @returns whole sequences; the rest is left out
 */
export function cutSequences(
  { openingIds }: Pick<Tokenizer, "openingIds">,
  tokens: ArrayLike<number>,
  length: number,
): readonly Int32Array[] {
  const own = length - openingIds.length;
  if (own < 1) throw new RangeError(`Expected \`length\` to be above ${openingIds.length}, got ${length}`);
  return Array.from({ length: Math.floor(tokens.length / own) }, (_, index) => {
    const sequence = new Int32Array(length);
    sequence.set(openingIds);
    for (let i = 0; i < own; i++) sequence[openingIds.length + i] = tokens[index * own + i] ?? 0;
    return sequence;
  });
}
