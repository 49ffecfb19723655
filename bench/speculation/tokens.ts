// Facts about the tokens of answers.

/** Tokens that a loop has at least. */
const LOOP_TOKENS = 24;
const LOOP_TIMES = 3;
const MAX_PERIOD = 32;

/**
 * Finds the first loop of an answer: tokens that repeat with a period of at most 32, at least three times and over at
 * least 24 tokens.
 *
 * @returns number of tokens before the first repetition; all tokens without a loop
 */
export function lengthBeforeLoop(tokenIds: readonly number[]): number {
  // For each period: how many tokens in a row equal those one period before.
  const repeated = new Int32Array(MAX_PERIOD + 1);
  for (const [index, id] of tokenIds.entries()) {
    for (let period = 1; period <= MAX_PERIOD; period++) {
      repeated[period] = index >= period && id === tokenIds[index - period] ? (repeated[period] ?? 0) + 1 : 0;
      const loop = (repeated[period] ?? 0) + period;
      if (loop >= Math.max(LOOP_TOKENS, LOOP_TIMES * period)) return index + 1 - loop + period;
    }
  }
  return tokenIds.length;
}

const PATTERN_TOKENS = 3;

/**
 * Counts the tokens of an answer that its prompt foretells: the three tokens before occur in the prompt, followed by
 * the same token.
 *
 * @returns the share of the tokens after the first three, in [0, 1]; NaN if there are none
 */
export function quotedShare(promptIds: ArrayLike<number>, tokenIds: readonly number[]): number {
  const followers = new Set<string>();
  for (let index = PATTERN_TOKENS; index < promptIds.length; index++) {
    followers.add(patternAt(promptIds, index));
  }
  const tried = Array.from({ length: Math.max(0, tokenIds.length - PATTERN_TOKENS) }, (_, at) => at + PATTERN_TOKENS);
  return tried.filter((index) => followers.has(patternAt(tokenIds, index))).length / tried.length;
}

/** Names the token at a position and the three before it. */
function patternAt(tokenIds: ArrayLike<number>, index: number): string {
  return Array.from({ length: PATTERN_TOKENS + 1 }, (_, at) => tokenIds[index - PATTERN_TOKENS + at]).join();
}

/** Finds the first position at which two answers differ; `undefined` if they are equal. */
export function firstDifference(a: readonly number[], b: readonly number[]): number | undefined {
  const at = Array.from({ length: Math.max(a.length, b.length) }).findIndex((_, index) => a[index] !== b[index]);
  return at < 0 ? undefined : at;
}
