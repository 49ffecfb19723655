// The choice under a bit mask, against the full row without the forbidden tokens.

import { expect, test } from "vitest";
import { randomInteger, randomNormal, seededRandom } from "../../support/random.ts";
import { rowOf } from "./plain-sampler.ts";
import {
  allowsToken,
  candidatesNeeded,
  forbidOthers,
  needsFullLogits,
  resolveSamplingParams,
  sampleAllowed,
  sampleProcessed,
  TokenCounts,
  type SampledToken,
  type SamplingParams,
} from "@readme-moe/core";

type Random = () => number;

function pick<Item>(random: Random, items: readonly Item[]): Item {
  return items[randomInteger(random, items.length)] as Item;
}

function randomParams(random: Random): SamplingParams {
  const maybe = (name: keyof SamplingParams, share: number, values: readonly unknown[]) =>
    random() < share ? { [name]: pick(random, values) } : {};
  return {
    ...maybe("temperature", 0.7, [0, 0, 0.01, 0.3, 0.7, 1.3, 50]),
    ...maybe("topK", 0.3, [1, 2, 10, 300]),
    ...maybe("topP", 0.4, [1e-9, 0.5, 0.9, 0.999]),
    ...maybe("minP", 0.2, [0.01, 0.5, 1]),
    ...maybe("minTokens", 0.3, [3]),
    ...maybe("logprobs", 0.4, [0, 3]),
    ...maybe("repetitionPenalty", 0.2, [0.7, 1.3]),
    ...maybe("presencePenalty", 0.2, [-2, 2]),
    ...maybe("logitBias", 0.2, [{ 0: 3, 1: -100 }]),
  };
}

/** A mask of one token, of few, of about half, of all or of all but one; with any bits beyond the vocabulary. */
function randomMask(random: Random, vocabSize: number): Int32Array {
  const mask = new Int32Array(Math.ceil(vocabSize / 32));
  const share = pick(random, [0, 0.02, 0.5, 0.98, 1]);
  const all = Array.from({ length: 32 * mask.length }, (_, id) => id);
  for (const id of all.filter(() => random() < share)) mask[id >> 5]! |= 1 << (id & 31);
  const one = randomInteger(random, vocabSize);
  mask[one >> 5]! ^= 1 << (one & 31);
  return mask;
}

function outcome(choose: () => SampledToken | undefined) {
  try {
    return choose();
  } catch (error) {
    // Only the caller's function that is to blame differs.
    return String(error).replace(/Expected `\w+` to .*/, "none");
  }
}

function randomCase(random: Random) {
  const vocabSize = Math.floor(3 * 700 ** random());
  const spread = pick(random, [0.1, 1, 3, 10, 100]);
  const step = pick(random, [0, 0, 0.5]); // makes many equal
  const logits = Float32Array.from({ length: vocabSize }, () => {
    const logit = randomNormal(random) * spread;
    return random() < 0.03 ? -Infinity : step > 0 ? Math.round(logit / step) * step : logit;
  }).fill(1, 0, 1);
  const counts = new TokenCounts(Array.from({ length: 4 }, () => randomInteger(random, vocabSize)));
  const numBefore = randomInteger(random, 6);
  for (let token = 0; token < numBefore; token++) counts.add(randomInteger(random, vocabSize));
  const params = resolveSamplingParams(randomParams(random), { vocabSize, eosTokenIds: [vocabSize - 1] });
  return { logits, counts, params, mask: randomMask(random, vocabSize), u: random() };
}

test("gives the token and log-probability of the masked row, from any number of candidates", () => {
  const random = seededRandom(21);
  let [numDecided, numUndecided, numFailed] = [0, 0, 0];
  for (let round = 0; round < 6000; round++) {
    const { logits, counts, params, mask, u } = randomCase(random);
    const whole = rowOf(logits, 0, true);
    const processed = logits.slice();
    forbidOthers(processed, mask);
    const expected = outcome(() => sampleProcessed({ ...whole, processed }, params, counts, u));
    const what = JSON.stringify({ params, round });
    expect(
      outcome(() => sampleAllowed({ ...whole, mask }, params, counts, u)),
      what,
    ).toEqual(expected);
    if (typeof expected === "string") numFailed++;
    const numCandidates = Math.min(logits.length, pick(random, [1, 5, 64, 300]));
    const row = rowOf(logits, numCandidates, false);
    const found = outcome(() => sampleAllowed({ ...row, mask }, params, counts, u));
    if (found === undefined) numUndecided++;
    else if (typeof found === "object" && Number.isNaN(found.logprob)) {
      expect(params.logprobs).toBeUndefined();
      // An only token whose logit is not known is taken for possible.
      if (typeof expected === "object") expect(found.id, what).toBe(expected.id);
      else expect(logits[found.id]).toBe(-Infinity);
    } else {
      numDecided++;
      expect(found, what).toEqual(expected);
    }
    expect(row.fullLogits).toBeUndefined();
  }
  expect(numDecided).toBeGreaterThan(1500);
  expect(numUndecided).toBeGreaterThan(500);
  expect(numFailed).toBeGreaterThan(50);
});

test("does not change the row", () => {
  const random = seededRandom(22);
  for (let round = 0; round < 200; round++) {
    const { logits, counts, params, mask, u } = randomCase(random);
    const row = rowOf(logits, 0, true);
    outcome(() => sampleAllowed({ ...row, mask }, params, counts, u));
    expect(row.fullLogits).toEqual(logits);
  }
});

test("a mask of one token decides without any logits, in each word and bit", () => {
  const params = resolveSamplingParams({ temperature: 0.7, presencePenalty: 1 }, { vocabSize: 97 });
  const row = rowOf(new Float32Array(97), 1, false);
  for (let id = 0; id < 97; id++) {
    const mask = new Int32Array(4);
    mask[id >> 5] = 1 << (id & 31);
    mask[3]! |= ~1; // beyond the vocabulary
    expect(sampleAllowed({ ...row, mask }, params, new TokenCounts([3]), 0.5)?.id).toBe(id);
    for (let other = 0; other < 97; other++) expect(allowsToken(mask, other)).toBe(other === id);
  }
});

test("greedy candidates decide as soon as one is allowed; the step is asked for many", () => {
  const random = seededRandom(23);
  const logits = Float32Array.from({ length: 4096 }, () => randomNormal(random));
  const params = resolveSamplingParams({ temperature: 0 }, { vocabSize: 4096 });
  expect([candidatesNeeded(params), candidatesNeeded(params, true)]).toEqual([1, 128]);
  expect([needsFullLogits(params, true, true), needsFullLogits(params, false, true)]).toEqual([false, true]);
  const row = rowOf(logits, 128, false);
  const mask = new Int32Array(128).fill(-1);
  for (const id of row.candidateIds.subarray(0, 127)) {
    mask[id >> 5]! &= ~(1 << (id & 31));
    expect(sampleAllowed({ ...row, mask }, params, new TokenCounts(), 0)?.id).toBe(
      row.candidateIds.find((one) => allowsToken(mask, one)),
    );
  }
});
