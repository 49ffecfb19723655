// The choice of a token where a bit mask allows only some.

import {
  changesLogits,
  checkRow,
  knownLogit,
  maskedTokens,
  noTokenLeft,
  weightOf,
  withPenalties,
  type BoundRow,
  type TokenCounts,
} from "./logits.ts";
import { bestId, rankedCandidates, type RankedLogits } from "./ranking.ts";
import {
  boundTotal,
  chooseAmongCandidates,
  chooseExactly,
  decide,
  type Draw,
  logprobOf,
  needsTotal,
  sampledFrom,
  type SampledToken,
  type WeightBounds,
} from "./sample.ts";
import type { ResolvedSamplingParams } from "./sampling-params.ts";

// Ranking this many tokens takes less time than a pass over the vocabulary.
const FEW_ALLOWED = 1024;
// A lighter token than exp of minus this is not summed: a vocabulary of them weighs 1e-10.
const MOST_EXPONENT = 34;

type MaskedRow = BoundRow & { readonly mask: Int32Array };
type WholeRow = MaskedRow & { readonly fullLogits: Float32Array };

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
  row: MaskedRow,
  params: ResolvedSamplingParams,
  counts: TokenCounts,
  u: number,
): SampledToken | undefined {
  checkRow(row);
  const { mask, fullLogits } = row;
  const { count, firstId } = allowedIn(mask, params.vocabSize);
  if (count === 0) throw noneAllowed();
  if (count === 1) return onlyToken(row, firstId, params, counts);
  const draw = { params, counts, u };
  const id = chooseAmongCandidates(row, draw, count);
  if (id !== undefined) return sampledFrom(row, id);
  if (!fullLogits) return undefined;
  const summed = chooseBySum({ ...row, fullLogits }, count, draw);
  if (summed !== undefined) return sampledFrom(row, summed);
  const logits = fullLogits.slice();
  forbidOthers(logits, mask);
  if (bestId(logits) === undefined) throw noneAllowed();
  return sampledFrom(
    row,
    withPenalties(logits, params, counts, () => chooseExactly(logits, params, u)),
  );
}

function onlyToken(
  row: MaskedRow,
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

/**
 * Chooses among the candidates, or among all allowed tokens if there are few, by the exact weight of the allowed ones:
 * one pass over the row, without a ranking.
 *
 * @param numAllowed - number of tokens that the mask allows
 */
function chooseBySum(row: WholeRow, numAllowed: number, { params, counts, u }: Draw): number | undefined {
  if (changesLogits(params, counts) || params.temperature === 0) return undefined;
  const { mask, fullLogits } = row;
  const masked = maskedTokens(params, counts);
  if (numAllowed <= FEW_ALLOWED) {
    const ranked = rankedAllowed(row, masked);
    if (ranked.ids.length === 0) return undefined;
    return decide(ranked, params, needsTotal(params) ? boundTotal(row, ranked, params, 0) : undefined, u);
  }
  if (masked.size > 0) return undefined;
  const ranked = rankedCandidates(row, masked, numAllowed);
  const best = ranked.logits[0];
  if (best === undefined) return undefined;
  return decide(ranked, params, needsTotal(params) ? weightOfAllowed(fullLogits, mask, best, params) : undefined, u);
}

function rankedAllowed({ mask, fullLogits }: WholeRow, masked: ReadonlySet<number>): RankedLogits {
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
