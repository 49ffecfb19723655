import { describe, expect, it } from "vitest";
import { candidatesNeeded, needsFullLogits, resolveSamplingParams, type SamplingParams } from "@readme-moe/core";

const needs = (params: SamplingParams, vocabSize = 49_152): readonly [number, boolean] => {
  const resolved = resolveSamplingParams(params, { vocabSize, eosTokenIds: [2, 3] });
  return [candidatesNeeded(resolved), needsFullLogits(resolved)];
};

describe("the logits that a step returns for a row", () => {
  it("are one candidate if greedy, and as many as log-probabilities are wanted", () => {
    expect(needs({ temperature: 0 })).toEqual([1, false]);
    expect(needs({ temperature: 0, logprobs: 0 })).toEqual([1, false]);
    expect(needs({ temperature: 0, logprobs: 5 })).toEqual([5, false]);
  });

  it("are topK candidates, or all logits if that is as fast", () => {
    expect(needs({ topK: 50, topP: 0.9 })).toEqual([50, false]);
    expect(needs({ topK: 5000 })).toEqual([1, true]);
    expect(needs({ topK: 1024 })).toEqual([1024, false]);
    expect(needs({ topK: 1025 })).toEqual([1, true]);
    expect(needs({ topK: 2 }, 8)).toEqual([2, false]);
  });

  it("are some candidates more while tokens may be masked", () => {
    expect(needs({ temperature: 0, minTokens: 1, stopTokenIds: [9] })).toEqual([4, false]);
    expect(needs({ topK: 50, ignoreEos: true })).toEqual([50, false]);
  });

  it("are all logits if candidates do not always decide, and candidates that mostly decide", () => {
    for (const params of [{}, { topP: 0.9 }, { temperature: 0.7 }, { minP: 0.01 }]) {
      expect(needs({ ...params, logprobs: 3 })).toEqual([128, true]);
      expect(needs(params, 32)).toEqual([32, true]);
    }
  });

  it("are only candidates if all logits can be read later, unless any of them may change", () => {
    for (const params of [{}, { topP: 0.9 }, { temperature: 0.7 }, { minP: 0.01 }]) {
      const resolved = resolveSamplingParams(params, { vocabSize: 49_152, eosTokenIds: [2, 3] });
      expect([candidatesNeeded(resolved), needsFullLogits(resolved, true)]).toEqual([128, false]);
    }
    for (const params of [{ repetitionPenalty: 1.1 }, { topK: 5000 }]) {
      const resolved = resolveSamplingParams(params, { vocabSize: 49_152, eosTokenIds: [2, 3] });
      expect(needsFullLogits(resolved, true)).toBe(true);
    }
  });

  it("are only all logits if any of them may change", () => {
    for (const params of [
      { temperature: 0, repetitionPenalty: 1.1 },
      { topK: 50, presencePenalty: 1 },
      { topK: 50, frequencyPenalty: -1 },
      { topK: 50, logitBias: { 1: 1 } },
    ]) {
      expect(needs({ ...params, logprobs: 3 })).toEqual([3, true]);
    }
  });

  it("are enough candidates for min-p, but no more than there are tokens", () => {
    expect(needs({ minP: 0.1 })).toEqual([128, false]);
    expect(needs({ minP: 0.05 })).toEqual([128, false]);
    expect(needs({ minP: 0.049 })).toEqual([128, true]);
    expect(needs({ minP: 0.1 }, 32)).toEqual([32, false]);
  });
});
