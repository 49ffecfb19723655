import { planDrafts, predictStepMs, type CostModel, type DraftPlanInput } from "@readme-moe/core";
import { expect, test } from "vitest";
import { assert, property } from "../../support/fast-check.ts";
import * as fc from "../../support/fast-check.ts";

const COST: CostModel = { fixedMs: 3.4, msPerToken: 0.5, msPerExpert: 0, msPerCachedToken: 0, loadMsPerByte: 1e-6 };
const STEP = { tokens: 1, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 };
const ONE = { chances: [0.5], experts: [0], allowanceMs: Infinity };

function planOf(input: Partial<DraftPlanInput>): readonly number[] {
  return planDrafts({
    step: STEP,
    experts: new Set([0]),
    tokensLeft: 100,
    cost: COST,
    drafts: [],
    ...input,
  });
}

/** Computes expected tokens per millisecond of a step with drafts of these lengths; `undefined` if a rule forbids it. */
function rateOf(input: DraftPlanInput, lengths: readonly number[]): number | undefined {
  const { step, cost, drafts, experts } = input;
  const rows = lengths.reduce((sum, length) => sum + length, 0);
  if (rows > input.tokensLeft) return undefined;
  let expected = step.tokens;
  for (const [index, length] of lengths.entries()) {
    const draft = drafts[index];
    if (!draft || length * cost.msPerToken > draft.allowanceMs * (1 + 1e-9)) return undefined;
    let chance = 1;
    for (let at = 0; at < length; at++) {
      const expert = draft.experts[at];
      if (expert === undefined || !experts.has(expert)) return undefined;
      chance *= draft.chances[at] ?? 0;
      expected += chance;
    }
  }
  return expected / predictStepMs(cost, { ...step, tokens: step.tokens + rows });
}

/** Lists all tuples of lengths. */
function allLengths(most: readonly number[]): readonly (readonly number[])[] {
  return most.reduce<readonly (readonly number[])[]>(
    (tuples, length) => tuples.flatMap((tuple) => Array.from({ length: length + 1 }, (_, next) => [...tuple, next])),
    [[]],
  );
}

const draft = fc
  .array(fc.record({ chance: fc.double({ min: 0, max: 1, noNaN: true }), expert: fc.nat(3) }), { maxLength: 4 })
  .chain((tokens) =>
    fc.record({
      chances: fc.constant(tokens.map(({ chance }) => chance)),
      experts: fc.constant(tokens.map(({ expert }) => (expert === 3 ? 1 : expert % 2))),
      allowanceMs: fc.oneof(
        fc.constant(Infinity),
        fc.nat(4).map((rows) => rows * 0.5),
        fc.double({ min: 0, max: 3, noNaN: true }),
      ),
    }),
  );
const input: fc.Arbitrary<DraftPlanInput> = fc.record({
  step: fc.record({
    tokens: fc.integer({ min: 1, max: 40 }),
    distinctExperts: fc.integer({ min: 1, max: 3 }),
    cachedTokens: fc.nat(3000),
    missingBytes: fc.constantFrom(0, 0, 1e6),
  }),
  experts: fc.constantFrom(new Set([0]), new Set([0, 1]), new Set([1])),
  tokensLeft: fc.nat(8),
  cost: fc.record({
    fixedMs: fc.double({ min: 0, max: 10, noNaN: true }),
    msPerToken: fc.constantFrom(0.5, 0.1, 2),
    msPerExpert: fc.double({ min: 0, max: 2, noNaN: true }),
    msPerCachedToken: fc.constantFrom(0, 0.001),
    loadMsPerByte: fc.constant(1e-6),
  }),
  drafts: fc.array(draft, { minLength: 1, maxLength: 4 }),
});

test("reaches the best rate of all lengths, within all limits", () => {
  assert(
    property(input, (given) => {
      const rate = rateOf(given, planDrafts(given)) ?? Number.NaN;
      const rates = allLengths(given.drafts.map(({ chances }) => chances.length)).map((one) => rateOf(given, one));
      const best = Math.max(...rates.filter((one) => one !== undefined));
      expect(rate).toBeGreaterThanOrEqual(best * (1 - 1e-9));
    }),
    { numRuns: 2000 },
  );
});

test("runs no row that gains nothing", () => {
  // One row costs 0.5 of 3.9 ms.
  expect(planOf({ drafts: [{ ...ONE, chances: [0.128] }] })).toEqual([0]);
  expect(planOf({ drafts: [{ ...ONE, chances: [0.129] }] })).toEqual([1]);
  expect(planOf({ drafts: [{ ...ONE, chances: [0] }] })).toEqual([0]);
});

test("asks for more certainty the more sequences share a step", () => {
  const drafts = Array.from({ length: 16 }, () => ({ ...ONE, chances: [0.6, 0.9], experts: [0, 0] }));
  expect(planOf({ drafts: drafts.slice(0, 4), step: { ...STEP, tokens: 4 } })).toEqual([2, 2, 2, 2]);
  expect(planOf({ drafts, step: { ...STEP, tokens: 16 } })).toEqual(drafts.map(() => 0));
});

test("prefers the most likely tokens when few fit", () => {
  const drafts = [0.9, 0.95, 0.8].map((chance) => ({ ...ONE, chances: [chance, chance], experts: [0, 0] }));
  expect(planOf({ drafts, tokensLeft: 3 })).toEqual([1, 2, 0]);
});

test("ends a draft before an expert that is not in the step", () => {
  const certain = { chances: [1, 1, 1], experts: [0, 1, 0], allowanceMs: Infinity };
  expect(planOf({ drafts: [certain] })).toEqual([1]);
  expect(planOf({ drafts: [certain], experts: new Set([0, 1]) })).toEqual([3]);
});

test("takes as many rows as an allowance pays for, rounding errors aside", () => {
  const certain = { chances: Array(8).fill(1), experts: Array(8).fill(0) };
  const cost = { ...COST, msPerToken: 0.1 };
  expect(planOf({ cost, drafts: [{ ...certain, allowanceMs: 0.1 + 0.1 + 0.1 }] })).toEqual([3]);
  expect(planOf({ cost, drafts: [{ ...certain, allowanceMs: 0.3 - 1e-3 }] })).toEqual([2]);
  expect(planOf({ cost, drafts: [{ ...certain, allowanceMs: -1 }] })).toEqual([0]);
});

test("runs whatever may be right if rows cost nothing", () => {
  const drafts = [{ chances: [0.01, 0.01, 0], experts: [0, 0, 0], allowanceMs: 0 }];
  expect(planOf({ cost: { ...COST, msPerToken: 0 }, drafts })).toEqual([2]);
});
