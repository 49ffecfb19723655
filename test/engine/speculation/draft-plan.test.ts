// Decisions of a draft head, compared with searches through all choices.

import { draftChances, newAcceptance } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import {
  averaged,
  continuedDrafts,
  DraftChain,
  evidenceOf,
  FIRST_CHANCE,
  relaxed,
  savedMs,
  startingDrafts,
  typicalChance,
} from "../../../packages/engine/src/speculation/draft-plan.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";

/** All subsets of `[0, size)`. */
function subsets(size: number): readonly (readonly number[])[] {
  return Array.from({ length: 2 ** size }, (_, bits) =>
    Array.from({ length: size }, (__, index) => index).filter((index) => (bits >> index) & 1),
  );
}

function randomCosts(random: () => number) {
  const [fixedMs, perRowMs] = [random(), 0.2 * random()];
  return { runMs: (numRows: number) => fixedMs + perRowMs * numRows, rowMs: random() };
}

describe("the drafts that get one more token", () => {
  test("give the best ratio of tokens and time of all subsets", () => {
    const random = seededRandom(1);
    const counts = new Map<string, number>();
    for (let run = 0; run < 400; run++) {
      const gains = Array.from({ length: randomInteger(random, 7) }, () => random() ** 2);
      const step = { tokens: 1 + randomInteger(random, 4), ms: 1 + 9 * random() };
      const costs = randomCosts(random);
      const rateOf = (chosen: readonly number[]): number => {
        if (chosen.length === 0) return step.tokens / step.ms;
        const tokens = chosen.reduce((sum, index) => sum + (gains[index] as number), step.tokens);
        return tokens / (step.ms + costs.runMs(chosen.length) + costs.rowMs * chosen.length);
      };
      const chosen = continuedDrafts(step, gains, costs);
      const best = Math.max(...subsets(gains.length).map(rateOf));
      expect(rateOf(chosen)).toBeCloseTo(best, 12);
      expect(chosen).toEqual([...chosen].sort((a, b) => a - b));
      const kind = chosen.length === 0 ? "none" : chosen.length === gains.length ? "all" : "some";
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    expect(Math.min(...["none", "some", "all"].map((kind) => counts.get(kind) ?? 0))).toBeGreaterThan(20);
  });

  test("none goes on where a row costs more than what a sure token gives", () => {
    const step = { tokens: 1, ms: 4 };
    expect(continuedDrafts(step, [1, 1], { runMs: () => 0, rowMs: 4.01 })).toEqual([]);
    expect(continuedDrafts(step, [1, 1], { runMs: () => 0, rowMs: 3.99 })).toEqual([0, 1]);
  });
});

describe("the sequences that are drafted for", () => {
  test("save the most time of all subsets", () => {
    const random = seededRandom(2);
    const counts = new Map<string, number>();
    for (let run = 0; run < 300; run++) {
      const prospects = Array.from({ length: 1 + randomInteger(random, 5) }, () => ({
        gainMs: 2 * random() ** 3,
        mostTokens: random() < 0.1 ? 0 : 4,
      }));
      const { runMs } = randomCosts(random);
      const savedBy = (chosen: readonly number[]): number =>
        chosen.length === 0
          ? 0
          : chosen.reduce((sum, index) => sum + (prospects[index]?.gainMs ?? 0), 0) - runMs(2 * chosen.length);
      const able = (chosen: readonly number[]): boolean => chosen.every((index) => prospects[index]?.mostTokens !== 0);
      const chosen = startingDrafts(prospects, runMs);
      expect(able(chosen)).toBe(true);
      expect(savedBy(chosen)).toBeCloseTo(Math.max(...subsets(prospects.length).filter(able).map(savedBy)), 12);
      const kind = chosen.length === 0 ? "none" : chosen.length === prospects.length ? "all" : "some";
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    expect(Math.min(...["none", "some", "all"].map((kind) => counts.get(kind) ?? 0))).toBeGreaterThan(20);
  });

  test("save what the best beginning of their draft saves", () => {
    const random = seededRandom(3);
    for (let run = 0; run < 200; run++) {
      const chances = Array.from({ length: randomInteger(random, 6) }, () => random());
      const step = { tokens: 1 + randomInteger(random, 4), ms: 1 + 9 * random(), msPerRow: random() };
      const saved = Array.from({ length: chances.length + 1 }, (_, length) =>
        chances.slice(0, length).reduce(
          ([sum, chance], one) => {
            const reached = chance * one;
            return [sum + (reached * step.ms) / step.tokens - step.msPerRow, reached] as const;
          },
          [0, 1] as readonly [number, number],
        ),
      );
      expect(savedMs(chances, step)).toBeCloseTo(Math.max(...saved.map(([sum]) => sum)), 12);
    }
  });
});

test("classes of evidence rise with the probability, and hold their typical chance", () => {
  const probabilities = Array.from({ length: 1001 }, (_, index) => index / 1000);
  const classes = probabilities.map(evidenceOf);
  expect(classes).toEqual(classes.toSorted((a, b) => a - b));
  expect([classes[0], classes.at(-1)]).toEqual([0, 12]);
  for (const evidence of new Set(classes)) expect(evidenceOf(typicalChance(evidence))).toBe(evidence);
});

test("before any outcome, chances are the typical ones with odds that are estimated low", () => {
  const classes = Array.from({ length: 13 }, (_, evidence) => evidence);
  const draft = { source: "head", tokenIds: classes, classes } as const;
  const chances = draftChances(newAcceptance("engine"), newAcceptance("sequence"), draft);
  for (const evidence of classes) {
    const odds = (0.8 * typicalChance(evidence)) / (1 - typicalChance(evidence));
    expect(chances[evidence]).toBeCloseTo(odds / (1 + odds), 10);
  }
});

test("the chance of a sequence follows its drafts, and returns to the first one when there are none", () => {
  let chance = FIRST_CHANCE;
  for (let token = 0; token < 50; token++) chance = averaged(chance, 0.1);
  expect(chance).toBeCloseTo(0.1, 2);
  let numCalls = 0;
  for (; chance < 0.4; numCalls++) chance = relaxed(chance, FIRST_CHANCE);
  expect(numCalls).toBeGreaterThan(100);
  expect(numCalls).toBeLessThan(400);
});

const limits = { mostTokens: 3, leastChance: 0.2, eosTokenIds: [7] };

function grow(...tokens: readonly (readonly [tokenId: number, probability: number])[]): readonly number[] {
  const chain = new DraftChain(limits);
  for (const [tokenId, probability] of tokens) chain.add(tokenId, probability);
  return chain.draft.tokenIds;
}

describe("a draft", () => {
  test("ends at its length, at an end token, and before tokens that are improbable or not numbers", () => {
    expect(grow([1, 1], [2, 1], [3, 1], [4, 1])).toEqual([1, 2, 3]);
    expect(grow([1, 1], [7, 1], [3, 1])).toEqual([1, 7]);
    expect(grow([1, 0.85], [2, 0.15], [3, 1])).toEqual([1]);
    // The product counts: 0.45 times 0.45 is above the limit, times 0.75 below.
    expect(grow([1, 0.45], [2, 0.45], [3, 0.75])).toEqual([1, 2]);
    expect(grow([1, NaN], [2, 1])).toEqual([]);
  });

  test("knows what it is expected to give", () => {
    const chain = new DraftChain({ ...limits, chancesOf: ({ tokenIds }) => tokenIds.map((id) => id / 10) });
    chain.add(8, 0.5);
    expect([chain.growsFrom, chain.length]).toEqual([8, 1]);
    chain.add(5, 0.5);
    expect(chain.chance).toBeCloseTo(0.4);
    expect(chain.expectedTokens).toBeCloseTo(1.2);
    chain.add(1, 0.5);
    expect(chain.draft).toEqual({ source: "head", tokenIds: [8, 5], classes: [5, 5] });
    expect(chain.seenChances).toEqual([0.8, 0.5, 0.1]);
    expect([chain.growsFrom, chain.expectedTokens]).toEqual([undefined, 0.8 + 0.4]);
  });

  test("of no tokens is over at once", () => {
    const chain = new DraftChain({ ...limits, mostTokens: 0 });
    chain.add(1, 1);
    expect(chain.draft.tokenIds).toEqual([]);
  });
});
