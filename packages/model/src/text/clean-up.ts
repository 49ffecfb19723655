// The clean-up that some tokenizer_config.json ask for (`clean_up_tokenization_spaces`): no space before
// punctuation and English contractions, as transformers does it.

const REPLACEMENTS: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

// Every replacement begins with a space and has only these characters.
const OTHER_CHARACTER = /[^ .?!,'ntmsver]/u;

export function cleanUp(text: string): string {
  return REPLACEMENTS.reduce((cleaned, [from, to]) => cleaned.replaceAll(from, to), text);
}

/**
 * The length of the longest prefix of `text` that cleans up by itself, whatever follows it.
 *
 * A replacement that spans a cut begins at a space before it. Where another character than those of the
 * replacements lies between the last space and the cut, none can; that stays so after each replacement.
 */
export function cleanablePrefixLength(text: string): number {
  const lastSpace = text.lastIndexOf(" ");
  if (lastSpace === -1) return text.length;
  if (OTHER_CHARACTER.test(text.slice(lastSpace + 1))) return text.length;
  for (let end = text.length - 1; end >= 0; end--) {
    // Cut behind the last character that no replacement has.
    if (OTHER_CHARACTER.test(text.charAt(end))) return end + 1;
  }
  return 0;
}
