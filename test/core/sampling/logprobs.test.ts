import { describe, expect, it } from "vitest";
import { rowOf } from "./plain-sampler.ts";
import { logSumExpBlock, resolveSamplingParams, sampleToken, TokenCounts, tokenLogprobs } from "@readme-moe/core";

const logits = Float32Array.from([1, 3, 2, -Infinity, 0]);
const logSumExp = Math.log([1, 3, 2, 0].reduce((sum, logit) => sum + Math.exp(logit), 0));
const close = (id: number): { id: number; logprob: unknown } => ({
  id,
  logprob: expect.closeTo((logits[id] as number) - logSumExp, 5),
});

describe("tokenLogprobs", () => {
  it.each([
    ["candidates", rowOf(logits, 5, false)],
    ["full logits", rowOf(logits, 0, true)],
  ])("returns the chosen token and the most likely ones, from %s", (_, row) => {
    expect(tokenLogprobs(row, close(2) as { id: number; logprob: number }, 2)).toEqual({
      ...close(2),
      top: [close(1), close(2)],
    });
    expect(tokenLogprobs(row, close(4) as { id: number; logprob: number }, 0)).toEqual({ ...close(4), top: [] });
  });

  it("leaves out tokens that cannot occur", () => {
    const { top } = tokenLogprobs(rowOf(logits, 5, false), { id: 1, logprob: 0 }, 5);
    expect(top.map(({ id }) => id)).toEqual([1, 2, 0, 4]);
  });

  it("refers to the model's distribution, whatever chose the token", () => {
    const params = { temperature: 0, logitBias: { 1: -100 }, repetitionPenalty: 3 };
    const resolved = resolveSamplingParams(params, { vocabSize: 5 });
    const chosen = sampleToken(rowOf(logits, 0, true), resolved, new TokenCounts([0]), 0);
    expect(chosen).toEqual(close(2));
  });

  it("never returns a probability above 1", () => {
    const row = { ...rowOf(Float32Array.from([50, 0]), 2, false), logSumExp: 49.99999 };
    const chosen = sampleToken(row, resolveSamplingParams({ temperature: 0 }, { vocabSize: 2 }), new TokenCounts(), 0);
    expect(chosen).toEqual({ id: 0, logprob: 0 });
  });

  it("rejects a row with too few candidates", () => {
    expect(() => tokenLogprobs(rowOf(logits, 2, false), { id: 1, logprob: 0 }, 3)).toThrow(
      new RangeError("Expected the row to have 3 candidates or full logits, got 2"),
    );
  });
});

describe("logSumExpBlock", () => {
  it.each([1, 2, 3, 17, 64, 96, 100, 4096, 32_000, 49_152, 50_257, 151_936, 262_144, 1_000_003])(
    "divides a vocabulary of %i evenly, into the largest blocks up to its root and 512",
    (vocabSize) => {
      const most = Math.min(512, Math.ceil(Math.sqrt(vocabSize)));
      const divisors = Array.from({ length: most }, (_, index) => index + 1).filter((size) => vocabSize % size === 0);
      expect(logSumExpBlock(vocabSize)).toBe(divisors.at(-1));
    },
  );
});
