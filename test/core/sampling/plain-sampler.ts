// The oracle: vLLM's sampler as its definition reads, with a full sort and nothing shared with the code under test but
// how a graph cuts its sums.

import { logSumExpBlock, type LogitsRow, type SamplingParams } from "@readme-moe/core";

/** Values of the parameters that change no logits; the oracle's tests draw from them. */
export const TRUNCATIONS: { readonly [Name in keyof SamplingParams]: readonly SamplingParams[Name][] } = {
  temperature: [0, 0.01, 0.3, 0.7, 1.3, 2, 50],
  topK: [1, 2, 10, 50, 300, 10_000],
  topP: [1e-9, 0.1, 0.5, 0.9, 0.95, 0.999],
  minP: [0, 0.01, 0.1, 0.5, 1],
  minTokens: [0, 3],
  ignoreEos: [true],
};

export interface PlainCase {
  readonly logits: Float32Array;
  readonly params: SamplingParams;
  readonly promptIds: readonly number[];
  readonly completionIds: readonly number[];
  readonly eosTokenIds: readonly number[];
}

/** Computes the probability of each token, `[vocabSize]`, and the ids with one above 0, most likely first. */
export function plainDistribution(given: PlainCase): {
  readonly probabilities: readonly number[];
  readonly order: readonly number[];
} {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = given.params;
  const logits = plainLogits(given);
  const sorted = logits.map((_, id) => id).sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const best = logits[sorted[0] as number] as number;
  const weights = logits.map((logit) => Math.exp((logit - best) / temperature));
  let order = sorted.filter((id) => (weights[id] as number) > 0 && (weights[id] as number) >= minP);
  if (topK > 0) order = order.slice(0, topK);
  const sumOf = (ids: readonly number[]): number => ids.reduce((sum, id) => sum + (weights[id] as number), 0);
  const total = sumOf(order);
  let before = 0;
  if (topP < 1) {
    order = order.filter((id) => {
      const isKept = before < topP * total;
      before += weights[id] as number;
      return isKept;
    });
  }
  const kept = sumOf(order);
  const members = new Set(order);
  return { order, probabilities: weights.map((weight, id) => (members.has(id) ? weight / kept : 0)) };
}

/** Finds the token that `u` falls on. */
export function plainSample(given: PlainCase, u: number): number {
  if (given.params.temperature === 0) {
    const logits = plainLogits(given);
    return logits.indexOf(Math.max(...logits));
  }
  const { probabilities, order } = plainDistribution(given);
  let sum = 0;
  return order.find((id) => (sum += probabilities[id] as number) > u) ?? (order.at(-1) as number);
}

function plainLogits({ logits, params, promptIds, completionIds, eosTokenIds }: PlainCase): readonly number[] {
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, stopTokenIds = [], ignoreEos } = params;
  const bias = new Map(Object.entries(params.logitBias ?? {}).map(([id, value]) => [Number(id), value as number]));
  const isEarly = completionIds.length < (params.minTokens ?? 0);
  return Array.from(logits, (raw, id) => {
    const isEnd = (eosTokenIds.includes(id) && ignoreEos !== true) || stopTokenIds.includes(id);
    if (isEarly && isEnd) return -Infinity;
    let logit = Math.fround(raw + (bias.get(id) ?? 0));
    const count = completionIds.filter((other) => other === id).length;
    if (count > 0 || promptIds.includes(id)) logit = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
    if (count > 0) logit -= frequencyPenalty * count + presencePenalty;
    return Math.fround(logit);
  });
}

/** Creates a row as a step returns it: the best tokens, and a log-sum-exp in float32. */
export function rowOf(logits: Float32Array, numCandidates: number, hasFullLogits: boolean): LogitsRow {
  const order = Array.from(logits, (_, id) => id).sort(
    (a, b) => (logits[b] as number) - (logits[a] as number) || a - b,
  );
  const candidateIds = Int32Array.from(order.slice(0, numCandidates));
  return {
    candidateIds,
    candidateLogits: Float32Array.from(candidateIds, (id) => logits[id] as number),
    logSumExp: roughLogSumExp(logits),
    fullLogits: hasFullLogits ? logits.slice() : undefined,
  };
}

/** Sums blocks one by one in float32, and then their sums: the least exact order that a runtime may use. */
function roughLogSumExp(logits: Float32Array): number {
  const block = logSumExpBlock(logits.length);
  const sums: number[] = [];
  for (let from = 0; from < logits.length; from += block) sums.push(oneByOne(logits.subarray(from, from + block)));
  return oneByOne(Float32Array.from(sums));
}

function oneByOne(logits: Float32Array): number {
  const best = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  if (best === -Infinity) return best;
  const sum = logits.reduce((rough, logit) => Math.fround(rough + Math.fround(Math.exp(logit - best))), 0);
  return Math.fround(best + Math.fround(Math.log(sum)));
}
