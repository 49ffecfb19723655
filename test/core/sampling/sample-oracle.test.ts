import { describe, expect, it } from "vitest";
import { randomInteger, randomNormal, seededRandom } from "../../support/random.ts";
import { plainDistribution, plainSample, rowOf, TRUNCATIONS, type PlainCase } from "./plain-sampler.ts";
import {
  candidatesNeeded,
  needsFullLogits,
  resolveSamplingParams,
  sampleToken,
  TokenCounts,
  uniformAt,
  type SamplingParams,
} from "@readme-moe/core";

type Random = () => number;

function pick<Item>(random: Random, items: readonly Item[]): Item {
  return items[randomInteger(random, items.length)] as Item;
}

/** Draws a value that is absent half of the time. */
function maybe<Name extends keyof SamplingParams>(random: Random, name: Name, values: readonly SamplingParams[Name][]) {
  return random() < 0.5 ? {} : { [name]: pick(random, values) };
}

function randomLogits(random: Random): Float32Array {
  const vocabSize = Math.floor(5 * 1000 ** random());
  const spread = pick(random, [0.1, 1, 3, 10, 100]);
  const step = pick(random, [0, 0, 0.5]); // a step makes many equal
  const offset = pick(random, [0, -300, 300]);
  return Float32Array.from({ length: vocabSize }, () => {
    if (random() < 0.02) return -Infinity;
    const logit = randomNormal(random) * spread;
    return offset + (step > 0 ? Math.round(logit / step) * step : logit);
  }).fill(offset + 1, 2, 3); // one that is finite and never masked
}

/** Draws parameters that change no logits, so that candidates may decide. */
function randomTruncation(random: Random): SamplingParams {
  const drawn = Object.entries(TRUNCATIONS).filter(() => random() < 0.5);
  return Object.fromEntries(drawn.map(([name, values]) => [name, pick<unknown>(random, values)]));
}

function randomPenalties(random: Random): SamplingParams {
  return {
    ...maybe(random, "repetitionPenalty", [0.7, 1, 1.1, 2]),
    ...maybe(random, "presencePenalty", [-2, 0, 0.5, 2]),
    ...maybe(random, "frequencyPenalty", [-0.5, 0, 0.1, 2]),
    ...maybe(random, "logitBias", [
      { 0: 3, 4: -100 },
      { 1: 5, 2: -5 },
    ]),
  };
}

function randomCase(random: Random, isPenalised: boolean): PlainCase {
  const logits = randomLogits(random);
  const ids = (length: number): readonly number[] => Array.from({ length }, () => randomInteger(random, logits.length));
  return {
    logits,
    params: { ...randomTruncation(random), ...(isPenalised ? randomPenalties(random) : {}) },
    promptIds: ids(5),
    completionIds: ids(randomInteger(random, 6)),
    eosTokenIds: pick(random, [[], [0], [0, 1]]),
  };
}

/** Draws `u` close to the boundary of two tokens, where an inexact `logSumExp` misleads. */
function nearBoundary(random: Random, given: PlainCase): number {
  const { probabilities, order } = plainDistribution(given);
  const before = order
    .slice(0, randomInteger(random, order.length))
    .reduce((sum, id) => sum + (probabilities[id] as number), 0);
  // Not as close as the rounding of the oracle itself.
  const distance = pick(random, [1e-3, 1e-5, 1e-7]) * (0.01 + random());
  return Math.min(1 - 1e-10, before * (1 + pick(random, [-distance, distance])));
}

function sampled({ logits, params, ...given }: PlainCase, u: number, numCandidates: number, isFull: boolean) {
  const resolved = resolveSamplingParams(params, { vocabSize: logits.length, eosTokenIds: given.eosTokenIds });
  const counts = new TokenCounts(given.promptIds);
  for (const id of given.completionIds) counts.add(id);
  return sampleToken(rowOf(logits, numCandidates, isFull), resolved, counts, u)?.id;
}

describe("chooses the oracle's token", () => {
  it("from full logits, for any parameters", () => {
    const random = seededRandom(1);
    for (let round = 0; round < 800; round++) {
      const given = randomCase(random, true);
      const u = random();
      expect(sampled(given, u, 0, true), JSON.stringify({ ...given, logits: given.logits.length, u })).toBe(
        plainSample(given, u),
      );
    }
  });

  it("from candidates alone, if they decide", () => {
    const random = seededRandom(2);
    let numDecided = 0;
    for (let round = 0; round < 1500; round++) {
      const given = randomCase(random, false);
      const isGreedy = given.params.temperature === 0;
      const u = isGreedy || random() < 0.5 ? random() : nearBoundary(random, given);
      const numCandidates = pick(random, [1, 5, 64, 300]);
      const id = sampled(given, u, Math.min(numCandidates, given.logits.length), false);
      if (id === undefined) continue;
      numDecided++;
      const what = { ...given, logits: given.logits.length, u, numCandidates };
      expect(id, JSON.stringify(what)).toBe(plainSample(given, u));
      expect(sampled(given, u, 0, true), JSON.stringify(what)).toBe(id);
    }
    expect(numDecided).toBeGreaterThan(700);
  });

  it("from the logits that a sequence requests", () => {
    const random = seededRandom(3);
    for (let round = 0; round < 500; round++) {
      const given = randomCase(random, round % 2 === 0);
      const { logits, params, eosTokenIds } = given;
      const resolved = resolveSamplingParams(params, { vocabSize: logits.length, eosTokenIds });
      const u = random();
      const id = sampled(given, u, candidatesNeeded(resolved), needsFullLogits(resolved));
      // Only min-p requests a number of candidates that may not be enough.
      if (id === undefined) expect(resolved.minP).toBeGreaterThan(0);
      else expect(id).toBe(plainSample(given, u));
    }
  });
});

describe("chooses tokens with their probabilities", () => {
  const random = seededRandom(4);
  const logits = Float32Array.from({ length: 40 }, () => randomNormal(random) * 2);
  const given: Omit<PlainCase, "params"> = { logits, promptIds: [1, 2], completionIds: [3, 3], eosTokenIds: [0] };

  it.each([
    [{}],
    [{ temperature: 0.7, topP: 0.9 }],
    [{ temperature: 1.5, topK: 10 }],
    [{ minP: 0.1, minTokens: 3 }],
    [{ repetitionPenalty: 1.5, frequencyPenalty: 0.5, topP: 0.95 }],
  ] satisfies [SamplingParams][])("for %j", (params) => {
    const numDraws = 20_000;
    const { probabilities } = plainDistribution({ ...given, params });
    const resolved = resolveSamplingParams(params, { vocabSize: 40, eosTokenIds: given.eosTokenIds });
    const counts = new TokenCounts(given.promptIds);
    for (const id of given.completionIds) counts.add(id);
    const row = rowOf(logits, 40, true);
    const frequencies = new Float64Array(40);
    for (let position = 0; position < numDraws; position++) {
      frequencies[sampleToken(row, resolved, counts, uniformAt(5, 0, position))?.id as number]! += 1 / numDraws;
    }
    for (const [id, probability] of probabilities.entries()) {
      // Four standard deviations of a binomial's mean; 0 for an impossible token.
      const tolerance = 4 * Math.sqrt((probability * (1 - probability)) / numDraws);
      expect(Math.abs((frequencies[id] as number) - probability)).toBeLessThanOrEqual(tolerance);
    }
  });
});
