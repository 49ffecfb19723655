import { draftChances, newAcceptance, observeDraft, type Acceptance, type Draft } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../../support/random.ts";

const draftOf = (...classes: readonly number[]): Draft => ({
  source: "context",
  tokenIds: classes.map((_, at) => at),
  classes,
});

/** Observes drafts of one token of class 0 that are right at a rate. */
function after(acceptance: Acceptance, numDrafts: number, rate: number, random = seededRandom(3)): Acceptance {
  let counts = acceptance;
  for (let at = 0; at < numDrafts; at++) {
    counts = observeDraft(counts, draftOf(0), { verified: 1, accepted: Number(random() < rate) });
  }
  return counts;
}

describe("counts", () => {
  test("equal those of a plain list of outcomes with exponential weights", () => {
    const random = seededRandom(11);
    let counts = newAcceptance("sequence");
    const outcomes: { readonly evidence: number; readonly isRight: boolean; readonly numBefore: number }[] = [];
    let numTried = 0;
    for (let round = 0; round < 300; round++) {
      const classes = Array.from({ length: 1 + randomInteger(random, 4) }, () => randomInteger(random, 3));
      const verified = randomInteger(random, classes.length + 1);
      const accepted = randomInteger(random, verified + 1);
      counts = observeDraft(counts, draftOf(...classes), { verified, accepted });
      const tried = classes.filter((_, at) => at < verified && at <= accepted);
      numTried += tried.length;
      for (const [at, evidence] of tried.entries()) {
        outcomes.push({ evidence, isRight: at < accepted, numBefore: numTried });
      }
    }
    for (const evidence of [0, 1, 2]) {
      const own = outcomes.filter((one) => one.evidence === evidence);
      // Outcomes of one draft count alike, and less with each outcome of later drafts.
      const weightOf = (some: typeof own): number =>
        some.reduce((sum, { numBefore }) => sum + Math.exp(-(numTried - numBefore) / counts.memory), 0);
      const { weight = 1, blocks = [] } = counts.outcomes.context ?? {};
      expect((blocks[0]?.[2 * evidence] ?? 0) / weight).toBeCloseTo(weightOf(own), 9);
      expect((blocks[0]?.[2 * evidence + 1] ?? 0) / weight).toBeCloseTo(weightOf(own.filter((one) => one.isRight)), 9);
    }
  });

  test("stay finite and the same after any number of outcomes", () => {
    const many = after(newAcceptance(), 3000, 0.5);
    const { weight = 0, blocks = [] } = many.outcomes.context ?? {};
    expect(weight).toBeLessThan(1e13);
    // The sum of all weights that fade.
    expect((blocks[0]?.[0] ?? 0) / weight).toBeCloseTo(1 / (1 - Math.exp(-1 / many.memory)), 6);
  });

  test("leave the counts that they were made from as they are", () => {
    const before = after(newAcceptance(), 5, 1);
    const copy = structuredClone(before);
    observeDraft(before, draftOf(0, 1, 40), { verified: 3, accepted: 2 });
    expect(before).toEqual(copy);
  });

  test("do not change when nothing was compared", () => {
    const before = after(newAcceptance(), 5, 1);
    expect(observeDraft(before, draftOf(0, 1), { verified: 0, accepted: 0 })).toBe(before);
  });

  test("are kept apart by source and by class", () => {
    const counts = after(newAcceptance("engine"), 200, 1);
    const none = newAcceptance();
    const [same = 0, other = 0] = draftChances(counts, none, draftOf(0, 1));
    const [recycled] = draftChances(counts, none, { ...draftOf(0), source: "recycled" });
    expect(same).toBeGreaterThan(0.9);
    expect(other).toBe(draftChances(none, none, draftOf(1))[0]);
    expect(recycled).toBe(draftChances(none, none, { ...draftOf(0), source: "recycled" })[0]);
  });
});

const chance = (engine: Acceptance, own: Acceptance): number => draftChances(engine, own, draftOf(0))[0] ?? 0;

describe("chances", () => {
  test("of a new sequence are a little below the engine's", () => {
    const engine = after(newAcceptance("engine"), 3000, 0.35);
    const estimate = chance(engine, newAcceptance());
    expect(estimate).toBeGreaterThan(0.26);
    expect(estimate).toBeLessThan(0.35);
  });

  test("move from the engine's towards the sequence's own", () => {
    const engine = after(newAcceptance("engine"), 2000, 0.3);
    const estimates = [0, 2, 8, 32, 128].map((numDrafts) => chance(engine, after(newAcceptance(), numDrafts, 1)));
    expect(estimates).toEqual(estimates.toSorted((a, b) => a - b));
    expect(estimates.at(-1)).toBeGreaterThan(0.8);
  });

  test("notice within 40 tokens that a text has changed its character", () => {
    const engine = after(newAcceptance("engine"), 2000, 0.5);
    const quoting = after(newAcceptance(), 500, 1);
    expect(chance(engine, quoting)).toBeGreaterThan(0.85);
    expect(chance(engine, after(quoting, 40, 0))).toBeLessThan(0.35);
    expect(chance(engine, after(after(quoting, 500, 0), 40, 1))).toBeGreaterThan(0.65);
  });

  test("of classes that were never tried follow how the source does in the sequence", () => {
    const engine = after(newAcceptance("engine"), 2000, 0.5);
    const [usual = 0] = draftChances(engine, newAcceptance(), draftOf(7));
    const [quoting = 0] = draftChances(engine, after(newAcceptance(), 40, 1), draftOf(7));
    const [other = 0] = draftChances(engine, after(newAcceptance(), 40, 0), draftOf(7));
    expect(quoting).toBeGreaterThan(usual + 0.1);
    expect(other).toBeLessThan(usual - 0.05);
  });

  test("are strictly between 0 and 1 whatever was observed", () => {
    for (const rate of [0, 1]) {
      const extreme = chance(after(newAcceptance("engine"), 5000, rate), after(newAcceptance(), 500, rate));
      expect(extreme).toBeGreaterThan(0);
      expect(extreme).toBeLessThan(1);
    }
  });
});
