import {
  chargeDraft,
  draftChances,
  newAcceptance,
  newDraftAccount,
  observeDraft,
  planDrafts,
  predictStepMs,
  type CostModel,
  type Draft,
  type StepWork,
} from "@readme-moe/core";
import { expect, test } from "vitest";
import { randomInteger, seededRandom } from "../../support/random.ts";

const COST: CostModel = { fixedMs: 3.4, msPerToken: 0.5, msPerExpert: 0, msPerCachedToken: 0, loadMsPerByte: 0 };
const DRAFT: Draft = { source: "context", tokenIds: Array(12).fill(7), classes: Array(12).fill(0) };

/** A text: it sees the length of the draft that runs and the estimate of a token's chance, and says how many tokens come true. */
type Adversary = (length: number, chance: number, step: number) => number;

interface Run {
  /** Loss after each step: what drafts added minus what accepted tokens saved, in ms. */
  readonly lossMs: readonly number[];
  /** The sequence's share of a step without drafts. */
  readonly shareMs: number;
  /** The sequence's share of the steps without drafts, in ms, after each step. */
  readonly decodeMs: readonly number[];
}

/** Runs one sequence among `numSequences` with plan, counts and account. */
function run(adversary: Adversary, { numSequences = 1, steps = 2000 } = {}): Run {
  const step: StepWork = { tokens: numSequences, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 };
  const shareMs = predictStepMs(COST, step) / numSequences;
  let [engine, own] = [newAcceptance("engine"), newAcceptance("sequence")];
  let account = newDraftAccount(COST, step);
  let [loss, decode] = [0, 0];
  const [lossMs, decodeMs]: [number[], number[]] = [[], []];
  for (let at = 0; at < steps; at++) {
    const chances = draftChances(engine, own, DRAFT);
    const [length = 0] = planDrafts({
      step,
      experts: new Set([0]),
      tokensLeft: 64,
      cost: COST,
      drafts: [{ chances, experts: Array(12).fill(0), allowanceMs: account.balanceMs }],
    });
    const numRight = adversary(length, chances[0] ?? 0, at);
    const verified = Math.min(length + 1, 12);
    const outcome = { verified, accepted: Math.min(verified, numRight) };
    const accepted = Math.min(length, numRight);
    [engine, own] = [observeDraft(engine, DRAFT, outcome), observeDraft(own, DRAFT, outcome)];
    account = chargeDraft(account, { step, cost: COST, draftTokens: length, accepted });
    loss += length * COST.msPerToken - accepted * shareMs;
    decode += shareMs;
    lossMs.push(loss);
    decodeMs.push(decode);
  }
  return { lossMs, decodeMs, shareMs };
}

const ROW_MS = COST.msPerToken;

/** Checks the bounds from the beginning and from every later moment. */
function expectBounded({ lossMs, decodeMs, shareMs }: Run): void {
  const excess = lossMs.map((loss, at) => loss - 0.015 * (decodeMs[at] ?? 0));
  let [least, mostLater] = [0, 0];
  for (const one of excess) {
    mostLater = Math.max(mostLater, one - least);
    least = Math.min(least, one);
  }
  expect(Math.max(...excess)).toBeLessThanOrEqual(Math.max(4 * ROW_MS, shareMs) + 1e-9);
  expect(mostLater).toBeLessThanOrEqual(Math.max(32 * ROW_MS, 8 * shareMs) + 1e-9);
}

test.each([1, 4, 16])("bounds the loss of a text that is never right, with %d sequences", (numSequences) => {
  expectBounded(run(() => 0, { numSequences }));
});

test.each([1, 4, 16])(
  "bounds the loss of a text that is right until it is trusted, with %d sequences",
  (numSequences) => {
    for (const trusted of [0.3, 0.5, 0.7, 0.9, 0.97]) {
      let isLuring = true;
      const result = run(
        (_, chance) => {
          if (chance > trusted) isLuring = false;
          if (chance < trusted / 2) isLuring = true;
          return isLuring ? 12 : 0;
        },
        { numSequences },
      );
      expectBounded(result);
    }
  },
);

test("bounds the loss of texts that are right at random, for a time or by length", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const random = seededRandom(seed);
    const period = 1 + randomInteger(random, 300);
    const [before, after] = [random(), random() * 0.2];
    const kind = seed % 3;
    const adversary: Adversary = (length, chance, step) => {
      if (kind === 0) return random() < before ? 12 : 0;
      if (kind === 1) return Math.floor(step / period) % 2 === 0 ? 12 : 0;
      return length <= 1 || random() > chance ? 12 : Math.floor(after * length);
    };
    expectBounded(run(adversary, { numSequences: [1, 4, 16][seed % 3] ?? 1, steps: 1000 }));
  }
});

test("an adversary does reach the trust of the counts, and then loses what it may", () => {
  const { lossMs } = run((_length, _chance, step) => (step < 200 ? 12 : 0));
  const before = Math.min(...lossMs);
  expect(before).toBeLessThan(-500);
  expect((lossMs.at(-1) ?? 0) - before).toBeGreaterThan(4 * ROW_MS);
});

test("a text that is right is hardly held back", () => {
  const { lossMs, decodeMs } = run(() => 12);
  // Each step saves up to twelve tokens of 3.9 ms for twelve rows of 0.5 ms.
  expect(-(lossMs.at(-1) ?? 0) / (decodeMs.at(-1) ?? 1)).toBeGreaterThan(9.5);
});
