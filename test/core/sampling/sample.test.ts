import {
  candidatesNeeded,
  needsFullLogits,
  ReadMeError,
  resolveSamplingParams,
  sampleToken,
  TokenCounts,
  type SamplingParams,
} from "@readme-moe/core";
import { describe, expect, it } from "vitest";
import { rowOf } from "./plain-sampler.ts";

const LARGEST_U = 1 - 2 ** -53;
const eosTokenIds = [1];

interface Options {
  /** @default what `candidatesNeeded` and `needsFullLogits` say */
  readonly candidates?: number;
  readonly full?: boolean;
  readonly completionIds?: readonly number[];
}

function sample(
  logits: readonly number[],
  params: SamplingParams,
  u: number,
  options: Options = {},
): number | undefined {
  const resolved = resolveSamplingParams(params, { vocabSize: logits.length, eosTokenIds });
  const { candidates = candidatesNeeded(resolved), full = needsFullLogits(resolved) } = options;
  const counts = new TokenCounts();
  for (const id of options.completionIds ?? []) counts.add(id);
  return sampleToken(rowOf(Float32Array.from(logits), candidates, full), resolved, counts, u)?.id;
}

describe("greedy", () => {
  it("chooses the largest logit, the lowest id among equals, and ignores u", () => {
    expect(sample([1, 3, 2, 3], { temperature: 0 }, Number.NaN)).toBe(1);
    expect(sample([1, 3, 2, 3], { temperature: 0 }, Number.NaN, { candidates: 0, full: true })).toBe(1);
    expect(sample([-0, 0], { temperature: 0 }, Number.NaN, { candidates: 0, full: true })).toBe(0);
  });

  it("chooses another token if a penalty lowers the best one", () => {
    expect(sample([3, 0, 2.5], { temperature: 0, presencePenalty: 1 }, 0, { completionIds: [0] })).toBe(2);
    expect(sample([3, 0, 2.5], { temperature: 0, repetitionPenalty: 1.3 }, 0, { completionIds: [0, 0] })).toBe(2);
    expect(sample([3, 0, 2.5], { temperature: 0, logitBias: { 0: -100 } }, 0)).toBe(2);
  });

  it("skips end tokens until minTokens, and chooses them with ignoreEos", () => {
    const logits = [1, 3, 2];
    expect(sample(logits, { temperature: 0, minTokens: 2 }, 0, { completionIds: [0] })).toBe(2);
    expect(sample(logits, { temperature: 0, minTokens: 2 }, 0, { completionIds: [0, 0] })).toBe(1);
    expect(sample(logits, { temperature: 0, minTokens: 2 }, 0, { completionIds: [0], full: true, candidates: 0 })).toBe(
      2,
    );
    expect(sample(logits, { temperature: 0, minTokens: 2 }, 0, { completionIds: [0], candidates: 1 })).toBeUndefined();
    expect(sample(logits, { temperature: 0, minTokens: 2, ignoreEos: true }, 0)).toBe(1);
  });
});

describe("the ends of u", () => {
  const logits = [0, 2, -Infinity, 1];

  it.each([
    ["unrestricted", {}, 3],
    ["top-k", { topK: 2 }, 3],
    ["top-p", { topP: 0.99 }, 0],
    ["min-p", { minP: 0.2 }, 3],
  ] as const)("give the first and the last survivor: %s", (name, params, last) => {
    const lightest = name === "unrestricted" ? 0 : last;
    expect(sample(logits, params, 0)).toBe(1);
    expect(sample(logits, params, LARGEST_U)).toBe(lightest);
    expect(sample(logits, params, LARGEST_U, { candidates: 0, full: true })).toBe(lightest);
  });

  it("never give an impossible token", () => {
    expect(sample([0, -Infinity, -1000, -Infinity], {}, LARGEST_U)).toBe(0);
    expect(sample([0, -200], { temperature: 0.01 }, LARGEST_U)).toBe(0);
    expect(sample([-3e38, 3e38], { temperature: 1e-5 }, LARGEST_U)).toBe(1);
  });
});

describe("equal logits", () => {
  const equal = Array<number>(64).fill(1);

  it("are chosen in the order of their ids", () => {
    for (let id = 0; id < 64; id++) expect(sample(equal, {}, id / 64)).toBe(id);
  });

  it("make top-k and top-p keep the lowest ids", () => {
    expect(sample(equal, { topK: 8 }, LARGEST_U)).toBe(7);
    expect(sample(equal, { topP: 0.25 }, LARGEST_U)).toBe(15);
    expect(sample(equal, { topK: 8, topP: 0.5 }, LARGEST_U)).toBe(3);
    expect(sample(equal, { minP: 1 }, LARGEST_U)).toBe(63);
  });
});

describe("truncation", () => {
  it("to one token leaves no other choice", () => {
    for (const params of [{ topK: 1 }, { topP: 1e-300 }, { topP: 0.01 }, { minP: 1 }]) {
      expect(sample([0, 1, 3, 2], params, LARGEST_U)).toBe(2);
      expect(sample([0, 1, 3, 2], params, LARGEST_U, { candidates: 0, full: true })).toBe(2);
    }
  });

  it("by a topK above the vocabulary has no effect", () => {
    for (const u of [0.1, 0.5, 0.9]) expect(sample([0, 1, 3, 2], { topK: 50 }, u)).toBe(sample([0, 1, 3, 2], {}, u));
  });

  it("by top-p applies to the tokens that top-k left", () => {
    // Of 4, 2, 1, 1 halves: of the first two, which have 2/3 and 1/3, the first alone reaches 0.6.
    const logits = [4, 2, 1, 1].map(Math.log);
    expect(sample(logits, { topK: 2, topP: 0.6 }, LARGEST_U)).toBe(0);
    expect(sample(logits, { topP: 0.6 }, LARGEST_U)).toBe(1);
  });

  it("by min-p applies to the probabilities at the temperature", () => {
    expect(sample([0, 1], { minP: 0.5 }, LARGEST_U)).toBe(1);
    expect(sample([0, 1], { minP: 0.5, temperature: 2 }, LARGEST_U)).toBe(0);
  });
});

describe("candidates alone", () => {
  const logits = Array.from({ length: 1000 }, (_, id) => -id / 100);

  it("are not enough if the token may lie outside them", () => {
    expect(sample(logits, {}, 0.999, { candidates: 64, full: false })).toBeUndefined();
    expect(sample(logits, { topP: 0.9 }, 0.999, { candidates: 64, full: false })).toBeUndefined();
    expect(sample(logits, { minP: 0.01 }, 0.1, { candidates: 64, full: false })).toBeUndefined();
    expect(sample(logits, { topK: 65 }, 0.1, { candidates: 64, full: false })).toBeUndefined();
  });

  it("are not enough if parameters change logits", () => {
    expect(
      sample(logits, { temperature: 0, logitBias: { 900: 100 } }, 0, { candidates: 64, full: false }),
    ).toBeUndefined();
    const options = { candidates: 64, full: false };
    expect(sample(logits, { temperature: 0, presencePenalty: 1 }, 0, options)).toBe(0);
    expect(
      sample(logits, { temperature: 0, presencePenalty: 1 }, 0, { ...options, completionIds: [0] }),
    ).toBeUndefined();
  });

  it("are enough if the token is clear", () => {
    const steep = logits.map((logit) => logit * 20);
    for (const params of [
      {},
      { topP: 0.9 },
      { temperature: 0.5, topP: 0.9 },
      { temperature: 1.5 },
      { ignoreEos: true },
    ]) {
      for (const u of [0.05, 0.3, 0.7]) {
        const alone = sample(steep, params, u, { candidates: 64, full: false });
        expect(alone).toBeDefined();
        expect(alone).toBe(sample(steep, params, u, { candidates: 0, full: true }));
      }
    }
  });

  it("are not enough on the boundary of two tokens", () => {
    expect(sample([0, 0], {}, 0.5, { candidates: 2, full: false })).toBeUndefined();
    expect(sample([0, 0], {}, 0.5)).toBe(1);
  });
});

describe("full logits", () => {
  it("are restored after a token was chosen", () => {
    const logits = Float32Array.from({ length: 50 }, (_, id) => Math.sin(id) * 5);
    const params = { repetitionPenalty: 1.7, frequencyPenalty: 0.3, logitBias: { 3: 5 }, minTokens: 9 };
    const row = rowOf(logits, 0, true);
    const counts = new TokenCounts([3, 4, 4, 1]);
    counts.add(7);
    sampleToken(row, resolveSamplingParams(params, { vocabSize: 50, eosTokenIds }), counts, 0.4);
    expect(row.fullLogits).toEqual(logits);
  });
});

describe("rows without a possible token", () => {
  const error = expect.objectContaining({ name: "ReadMeError", code: "ERR_RUNTIME" }) as ReadMeError;

  it.each([
    ["NaN", [1, Number.NaN, 2]],
    ["Infinity", [1, Infinity, 2]],
    ["nothing but -Infinity", [-Infinity, -Infinity]],
  ])("are rejected: %s", (_, logits) => {
    for (const params of [{ temperature: 0 }, {}, { topK: 1 }])
      expect(() => sample(logits, params, 0.5)).toThrow(error);
  });

  it("are rejected if masks leave no token", () => {
    const params = { minTokens: 1, stopTokenIds: [0, 2] };
    for (const other of [{ temperature: 0 }, {}, { topK: 2 }, { minP: 0.5 }]) {
      for (const full of [true, false]) {
        const options = { candidates: full ? 0 : 3, full };
        expect(() => sample([1, 2, 3], { ...params, ...other }, 0.5, options)).toThrow(error);
      }
    }
  });
});
