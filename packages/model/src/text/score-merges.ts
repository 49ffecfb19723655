// SentencePiece's BPE stores no merges: it joins whichever neighbours make the token of the highest score.

/**
 * The merges that do the same, highest score first, in the order in which transformers derives them
 * (`generate_merges` of convert_slow_tokenizer.py): equal scores put the longer left piece first.
 *
 * @param scores - by id, shape `[numTokens]`
 * @param canMerge - whether a token is one that text can be merged into; not control or byte tokens
 */
export function mergesByScore(
  tokens: readonly string[],
  ids: ReadonlyMap<string, number>,
  scores: ArrayLike<number>,
  canMerge: (id: number) => boolean,
): [string, string][] {
  const merges: { readonly left: string; readonly right: string; readonly score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    if (!canMerge(id)) continue;
    for (let at = 1; at < token.length; at++) {
      const left = token.slice(0, at);
      const right = token.slice(at);
      if (ids.has(left) && ids.has(right)) merges.push({ left, right, score: scores[id] ?? 0 });
    }
  }
  merges.sort((a, b) => b.score - a.score || b.left.length - a.left.length || b.right.length - a.right.length);
  return merges.map(({ left, right }) => [left, right]);
}
