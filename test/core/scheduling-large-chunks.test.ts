// Room in the steps of the cost-aware scheduler: chunks too large for a step with decodes, and room for everyone.

import { costAware } from "@readme-moe/core";
import { expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";
import { decoding, idsOf, prefilling, schedulable, SLOW_COST, stateOf } from "../support/scheduling.ts";

const LIMITS = { maxNumBatchedSeqs: 16, maxNumBatchedTokens: 512, chunkTokens: 128 };
const MB = 1e6;

test("the first chunk that has waited for as long as its step is too long runs, and no other", () => {
  const random = seededRandom(12);
  const cost = { ...SLOW_COST, msPerExpert: 1, msPerCachedToken: 0 };
  const [maxStepMs, nowMs] = [50, 1000];
  const rounds = { none: 0, first: 0, later: 0, behindUnfit: 0 };
  for (let round = 0; round < 1000; round++) {
    const decodes = Array.from({ length: 1 + randomInteger(random, 3) }, (_, arrival) =>
      decoding(arrival, 0, { waitingSinceMs: nowMs }),
    );
    const loadMs = random() < 0.5 ? 30 : 0;
    const limits = { ...LIMITS, maxNumBatchedTokens: random() < 0.5 ? 100 : 512 };
    const chunks = Array.from({ length: 1 + randomInteger(random, 4) }, (_, index) => {
      const [numTokens, expert] = [50 + randomInteger(random, 79), randomInteger(random, 2)];
      // A step of the decodes takes 9 ms and 1 ms for each of them; the chunk may need a second expert.
      const stepMs = 9 + decodes.length + numTokens + (expert === 1 ? 1 + loadMs : 0);
      const waitedMs = stepMs - maxStepMs + randomInteger(random, 3) - (random() < 0.5 ? 2 : 1);
      const experts = Array.from({ length: numTokens }, () => expert);
      return {
        sequence: prefilling(decodes.length + index, experts, { waitingSinceMs: nowMs - waitedMs }),
        fits: decodes.length + numTokens <= limits.maxNumBatchedTokens,
        isDue: waitedMs >= stepMs - maxStepMs,
      };
    });
    const place = chunks.findIndex(({ fits, isDue }) => fits && isDue);
    const sequences = [...decodes, ...chunks.map(({ sequence }) => sequence)];
    const state = stateOf(sequences, { nowMs, limits, cost, missingBytes: [0, loadMs * MB] });
    const large = chunks[place] ? [chunks[place].sequence.id] : [];
    expect(idsOf(costAware({ maxStepMs })(state)).toSorted()).toEqual([...decodes.map(({ id }) => id), ...large]);
    rounds[place < 0 ? "none" : place === 0 ? "first" : "later"]++;
    if (chunks.slice(0, Math.max(place, 0)).some(({ fits, isDue }) => isDue && !fits)) rounds.behindUnfit++;
  }
  expect(Math.min(...Object.values(rounds))).toBeGreaterThan(20);
});

test("no large chunk joins a step that has a small one", () => {
  expect(stepOf([120, 128])).toEqual(["s0", "s1"]);
  expect(stepOf([120, 20, 128])).toEqual(["s0", "s2"]);
});

test("an expert whose load is short joins at once only if all sequences fit the step's tokens", () => {
  const sequences = [decoding(0, 1), ...[1, 2, 3, 4].map((arrival) => decoding(arrival, 0))];
  const step = (maxNumBatchedTokens: number): readonly string[] =>
    idsOf(costAware()(stateOf(sequences, { limits: { ...LIMITS, maxNumBatchedTokens }, missingBytes: [0, 12 * MB] })));
  expect(step(5)).toContain("s0");
  expect(step(4)).toEqual(["s1", "s2", "s3", "s4"]);
});

/** Schedules a decode with chunks of these lengths, which have all waited for 300 ms. */
function stepOf(lengths: readonly number[]): readonly string[] {
  const chunks = lengths.map((numTokens, index) => schedulable(index + 1, { numTokens }));
  return idsOf(costAware({ maxStepMs: 100 })(stateOf([decoding(0, 0), ...chunks], { limits: LIMITS, nowMs: 300 })));
}
