// The example's scheduler and policy meet the requirements on every scheduler and policy.

import type { EvictionPolicy, Scheduler } from "@readme-moe/core";
import { nextChunkTokens } from "@readme-moe/core";
import { expect, test } from "vitest";
import { seededRandom } from "../support/random.ts";
import { decoding, idsOf, prefilling, randomState, stateOf } from "../support/scheduling.ts";

// Plain JavaScript, as the engine imports it.
const POLICIES: string = new URL("../../examples/custom-policy/policies.mjs", import.meta.url).href;
const { followTheFirst, longestIdle } = (await import(POLICIES)) as {
  readonly followTheFirst: Scheduler;
  readonly longestIdle: EvictionPolicy;
};

test("schedules the first sequence, and those that need its experts only", () => {
  const sequences = [decoding(3, 0), decoding(2, 2), prefilling(1, [1, 0, 1]), decoding(4, 1), prefilling(5, [1, 2])];
  expect(idsOf(followTheFirst(stateOf(sequences)))).toEqual(["s1", "s3", "s4"]);
});

test("every step is within the limits and not empty", () => {
  const random = seededRandom(1);
  for (let trial = 0; trial < 300; trial++) {
    const state = randomState(random);
    const scheduled = followTheFirst(state);
    const byId = new Map(state.sequences.map((sequence) => [sequence.id, sequence]));
    expect(scheduled.length).toBeGreaterThan(0);
    expect(scheduled.length).toBeLessThanOrEqual(state.limits.maxNumBatchedSeqs);
    expect(new Set(idsOf(scheduled)).size).toBe(scheduled.length);
    expect(scheduled.reduce((total, { numTokens }) => total + numTokens, 0)).toBeLessThanOrEqual(
      state.limits.maxNumBatchedTokens,
    );
    for (const { id, numTokens } of scheduled) {
      const sequence = byId.get(id);
      expect(numTokens).toBe(sequence && nextChunkTokens(sequence, state.limits.chunkTokens));
    }
  }
});

test("evicts the longest idle unit, among equals the one whose next use is furthest away", () => {
  const unit = { expert: 0, bytes: 1, nextUse: Infinity, lastUse: 0, numUses: 1 };
  const candidates = [
    { ...unit, layer: 0, idleSteps: 1, layersAway: 3 },
    { ...unit, layer: 1, idleSteps: 2, layersAway: 1 },
    { ...unit, layer: 2, idleSteps: 2, layersAway: 2 },
  ];
  expect(longestIdle(candidates, { missingBytes: 1, decision: 0 }).layer).toBe(2);
});
