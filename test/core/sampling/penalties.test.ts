import { describe, expect, it } from "vitest";
import { resolveSamplingParams, TokenCounts, type SamplingParams } from "@readme-moe/core";
import { applyPenalties } from "../../../packages/core/src/sampling/logits.ts";

const counts = new TokenCounts([0, 1, 4]);
for (const id of [1, 2, 1]) counts.add(id);

function penalised(params: SamplingParams, logits: readonly number[] = [2, 2, -2, 2, -2, 0]): readonly number[] {
  const row = Float32Array.from(logits);
  applyPenalties(row, resolveSamplingParams(params, { vocabSize: logits.length, eosTokenIds: [3] }), counts);
  return [...row];
}

describe("TokenCounts", () => {
  it("counts the completion and knows the prompt", () => {
    expect([...counts.prompt]).toEqual([0, 1, 4]);
    expect([...counts.completion]).toEqual([
      [1, 2],
      [2, 1],
    ]);
    expect(counts.numCompletionTokens).toBe(3);
  });
});

describe("applyPenalties", () => {
  it("changes nothing by default", () => {
    expect(penalised({})).toEqual([2, 2, -2, 2, -2, 0]);
  });

  it("divides positive logits and multiplies others of prompt and completion, once each", () => {
    expect(penalised({ repetitionPenalty: 2 })).toEqual([1, 1, -4, 2, -4, 0]);
  });

  it("subtracts the presence penalty once from tokens of the completion alone", () => {
    expect(penalised({ presencePenalty: 0.5 })).toEqual([2, 1.5, -2.5, 2, -2, 0]);
  });

  it("subtracts the frequency penalty for each occurrence in the completion", () => {
    expect(penalised({ frequencyPenalty: 0.5 })).toEqual([2, 1, -2.5, 2, -2, 0]);
  });

  it("adds bias before penalties", () => {
    expect(penalised({ logitBias: { 0: -3, 3: 5 }, repetitionPenalty: 2 })).toEqual([-2, 1, -4, 7, -4, 0]);
  });

  it("masks end and stop tokens until there are minTokens", () => {
    expect(penalised({ minTokens: 4, stopTokenIds: [0] })).toEqual([-Infinity, 2, -2, -Infinity, -2, 0]);
    expect(penalised({ minTokens: 3, stopTokenIds: [0] })).toEqual([2, 2, -2, 2, -2, 0]);
  });

  it("masks only stop tokens with ignoreEos, whatever their bias", () => {
    const params = { minTokens: 4, stopTokenIds: [0], ignoreEos: true, logitBias: { 0: 100 } };
    expect(penalised(params)).toEqual([-Infinity, 2, -2, 2, -2, 0]);
  });

  it("keeps logits finite for a penalty near 0", () => {
    const logits = penalised({ repetitionPenalty: 1e-300 }, [2, 0, -Infinity, 1, -2, 0]);
    expect(logits.map((logit) => Number.isNaN(logit) || logit === Infinity)).not.toContain(true);
    expect(logits[2]).toBe(-Infinity);
  });
});
