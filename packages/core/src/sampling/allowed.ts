// The choice of a token where a bit mask allows only some.

import {
  boundTotal,
  decide,
  needsTotal,
  type WeightBounds,
  chooseExactly,
  logprobOf,
  type SampledToken,
} from "./sample.ts";
import {
  changesLogits,
  checkRow,
  maskedTokens,
  noTokenLeft,
  weightOf,
  withPenalties,
  type LogitsRow,
  type TokenCounts,
} from "./logits.ts";
import { bestId, type RankedLogits } from "./ranking.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

// Ranking this many tokens takes less time than a pass over the vocabulary.
const FEW_ALLOWED = 1024;
// A lighter token than exp of minus this is not summed: a vocabulary of them weighs 1e-10.
const MOST_EXPONENT = 34;

/** A row of logits, and the bit mask of the tokens that may be chosen; bits beyond the vocabulary are ignored. */
export interface BoundRow extends LogitsRow {
  readonly mask: Int32Array;
}

/** Whether a bit mask allows a token. */
export function allowsToken(mask: Int32Array, id: number): boolean {
  return (((mask[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1;
}

/** Sets the logits of the tokens that a bit mask does not allow to `-Infinity`. */
export function forbidOthers(logits: Float32Array, mask: Int32Array): void {
  for (let start = 0; start < logits.length; start += 32) {
    const bits = mask[start >> 5] ?? 0;
    if (bits === -1) continue;
    const end = Math.min(start + 32, logits.length);
    if (bits === 0) {
      logits.fill(-Infinity, start, end);
      continue;
    }
    for (let id = start; id < end; id++) if (((bits >>> (id & 31)) & 1) === 0) logits[id] = -Infinity;
  }
}

/**
 * Chooses the token that `sampleProcessed` would choose after `forbidOthers`, often without all logits: the only
 * allowed token, the first allowed candidate at temperature 0, or a candidate that bounds of the total weight decide.
 *
 * @param counts - the sequence's tokens so far
 * @param u - in [0, 1), see `uniformAt`
 * @returns `undefined` if the row's candidates do not decide and it has no full logits. The log-probability is NaN if
 *   the row does not hold it and `params.logprobs` does not ask for it.
 * @throws {RangeError} if the mask allows no token that can be chosen
 * @throws {ReadMeError} `ERR_RUNTIME` if the row is not finite, or the parameters leave none of the allowed tokens
 */
export function sampleAllowed(
  row: BoundRow,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): SampledToken | undefined {
  checkRow(row);
  const { mask, fullLogits } = row;
  const { count, firstId } = allowedIn(mask, params.vocabSize);
  if (count === 0) throw noneAllowed();
  if (count === 1) return onlyToken(row, firstId, params, counts);
  const id = chooseAmongCandidates(row, count, { params, counts }, u);
  if (id !== undefined) return { id, logprob: logprobOf(knownLogit(row, id) ?? -Infinity, row) };
  if (!fullLogits) return undefined;
  const summed = chooseBySum({ ...row, fullLogits }, count, { params, counts }, u);
  if (summed !== undefined) return { id: summed, logprob: logprobOf(fullLogits[summed] ?? -Infinity, row) };
  const logits = fullLogits.slice();
  forbidOthers(logits, mask);
  if (bestId(logits) === undefined) throw noneAllowed();
  const chosen = withPenalties(logits, params, counts, () => chooseExactly(logits, params, u));
  return { id: chosen, logprob: logprobOf(fullLogits[chosen] ?? -Infinity, row) };
}

function onlyToken(
  row: BoundRow,
  id: number,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
): SampledToken | undefined {
  const logit = knownLogit(row, id);
  if (logit === -Infinity) throw noneAllowed();
  if (maskedTokens(params, counts).has(id)) throw noTokenLeft();
  if (logit === undefined && params.logprobs !== undefined) return undefined;
  return { id, logprob: logit === undefined ? Number.NaN : logprobOf(logit, row) };
}

/** @param numAllowed - number of tokens that the mask allows */
function chooseAmongCandidates(
  row: BoundRow,
  numAllowed: number,
  { params, counts }: { readonly params: ResolvedSamplingParams; readonly counts: TokenCounts },
  u: number,
): number | undefined {
  if (changesLogits(params, counts)) return undefined;
  const masked = maskedTokens(params, counts);
  const numLeft = numAllowed - Array.from(masked).filter((id) => allowsToken(row.mask, id)).length;
  const ranked = allowedCandidates(row, masked, numLeft);
  // All logits tell whether no token is left.
  if (ranked.ids.length === 0) return undefined;
  if (params.temperature === 0) return ranked.ids[0];
  const total = needsTotal(params) ? boundTotal(row, ranked, params, params.vocabSize - numLeft) : undefined;
  return chosenId(ranked, params, total, u);
}

/**
 * Chooses among the candidates, or among all allowed tokens if there are few, by the exact weight of the allowed ones:
 * one pass over the row, without a ranking.
 *
 * @param numAllowed - number of tokens that the mask allows
 */
function chooseBySum(
  row: BoundRow & { readonly fullLogits: Float32Array },
  numAllowed: number,
  { params, counts }: { readonly params: ResolvedSamplingParams; readonly counts: TokenCounts },
  u: number,
): number | undefined {
  if (changesLogits(params, counts) || params.temperature === 0) return undefined;
  const { mask, fullLogits } = row;
  const masked = maskedTokens(params, counts);
  if (numAllowed <= FEW_ALLOWED) {
    const ranked = rankedAllowed(row, masked);
    if (ranked.ids.length === 0) return undefined;
    return chosenId(ranked, params, needsTotal(params) ? weightOfAll(ranked.logits, params) : undefined, u);
  }
  if (masked.size > 0) return undefined;
  const ranked = allowedCandidates(row, masked, numAllowed);
  const best = ranked.logits[0];
  if (best === undefined) return undefined;
  const total = needsTotal(params) ? weightOfAllowed(fullLogits, mask, best, params) : undefined;
  return chosenId(ranked, params, total, u);
}

/** Chooses as `decide` does. @returns the token; `undefined` if more tokens must be known */
function chosenId(
  ranked: RankedLogits,
  params: ResolvedSamplingParams,
  total: WeightBounds | undefined,
  u: number,
): number | undefined {
  const index = decide(ranked, params, total, u);
  return index === undefined ? undefined : ranked.ids[index];
}

/** Ranks the allowed tokens. */
function rankedAllowed(
  { mask, fullLogits }: BoundRow & { readonly fullLogits: Float32Array },
  masked: ReadonlySet<number>,
): RankedLogits {
  const ids: number[] = [];
  for (const [word, bits] of mask.entries()) {
    for (let left = bits; left !== 0; left &= left - 1) {
      const id = 32 * word + (31 - Math.clz32(left & -left));
      const logit = fullLogits[id] ?? -Infinity;
      if (logit > -Infinity && !masked.has(id)) ids.push(id);
    }
  }
  const logitOf = (id: number): number => fullLogits[id] ?? -Infinity;
  ids.sort((a, b) => logitOf(b) - logitOf(a) || a - b);
  return { ids: Int32Array.from(ids), logits: Float32Array.from(ids, logitOf), isComplete: true };
}

function weightOfAll(logits: Float32Array, { temperature }: ResolvedSamplingParams): WeightBounds {
  const best = logits[0] ?? 0;
  let sum = 0;
  for (const logit of logits) sum += weightOf(logit, best, temperature);
  return { low: sum, high: sum };
}

/** Sums the weights of the allowed tokens, relative to the best one's. */
function weightOfAllowed(
  logits: Float32Array,
  mask: Int32Array,
  best: number,
  { temperature }: ResolvedSamplingParams,
): WeightBounds {
  const least = best - MOST_EXPONENT * temperature;
  let sum = 0;
  for (const [word, bits] of mask.entries()) {
    if (bits === 0) continue;
    const end = Math.min(32 * word + 32, logits.length);
    for (let id = 32 * word; id < end; id++) {
      const logit = logits[id] ?? -Infinity;
      if (logit < least || ((bits >>> (id & 31)) & 1) === 0) continue;
      sum += weightOf(logit, best, temperature);
    }
  }
  return { low: sum, high: sum + logits.length * Math.exp(-MOST_EXPONENT) };
}

/** Keeps a row's candidates that may be chosen. @param numLeft - number of all tokens that may be */
function allowedCandidates(row: BoundRow, masked: ReadonlySet<number>, numLeft: number): RankedLogits {
  const { candidateIds, candidateLogits, mask } = row;
  const isKept = (_: number, index: number): boolean => {
    const id = candidateIds[index] ?? -1;
    return allowsToken(mask, id) && !masked.has(id) && candidateLogits[index] !== -Infinity;
  };
  const ids = candidateIds.filter(isKept);
  const isComplete = ids.length === numLeft || candidateLogits.at(-1) === -Infinity;
  return { ids, logits: candidateLogits.filter(isKept), isComplete };
}

/** Reads a token's logit, if the row holds it. */
function knownLogit({ candidateIds, candidateLogits, fullLogits }: LogitsRow, id: number): number | undefined {
  return fullLogits?.[id] ?? candidateLogits[candidateIds.indexOf(id)];
}

/** Counts the tokens that a mask allows, and finds the first. */
function allowedIn(mask: Int32Array, vocabSize: number): { readonly count: number; readonly firstId: number } {
  let [count, firstId] = [0, -1];
  const numWords = Math.min(mask.length, Math.ceil(vocabSize / 32));
  for (let word = 0; word < numWords; word++) {
    let bits = mask[word] ?? 0;
    if (bits === 0) continue;
    const numBits = vocabSize - 32 * word;
    if (numBits < 32) bits &= 2 ** numBits - 1;
    if (firstId < 0 && bits !== 0) firstId = 32 * word + (31 - Math.clz32(bits & -bits));
    count += numSet(bits);
  }
  return { count, firstId };
}

/** Counts the bits of a word: in pairs, fours and bytes at once, then all bytes by a product. */
function numSet(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const fours = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return Math.imul((fours + (fours >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

function noneAllowed(): RangeError {
  return new RangeError("Expected `allowTokens` to allow a token that can be chosen, got none");
}
