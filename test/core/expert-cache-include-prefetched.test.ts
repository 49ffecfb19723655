// Experts that were read ahead are used, whatever the scheduler prefers by then.

import {
  costAware,
  EVICTION_POLICIES,
  type EvictionPolicyName,
  fcfs,
  includePrefetched,
  nextChunkTokens,
  readMe,
  type CostModel,
  type SchedulableSequence,
  type ScheduledSequence,
  type Scheduler,
} from "@readme-moe/core";
import { generateTrace, simulate } from "@readme-moe/refactor/simulation";
import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";
import { decoding, idsOf, randomState, stateOf } from "../support/scheduling.ts";

const MAX_DELAY_MS = 60;
const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  fcfs: fcfs({ maxDelayMs: MAX_DELAY_MS }),
  "prefill first": fcfs({ prefillShare: 1, maxDelayMs: MAX_DELAY_MS }),
  "read-me": readMe({ maxDelayMs: MAX_DELAY_MS }),
  "cost-aware": costAware({ maxDelayMs: MAX_DELAY_MS, maxStepMs: 30 }),
};
const LIMITS = { maxNumBatchedSeqs: 2, maxNumBatchedTokens: 64, chunkTokens: 64 };

function included(
  chosen: readonly string[],
  experts: readonly number[],
  sequences: readonly string[],
  limits = LIMITS,
) {
  const state = stateOf([decoding(0, 0), decoding(1, 1), decoding(2, 2), decoding(3, 2)], { limits });
  const scheduled = chosen.map((id) => ({ id, numTokens: 1 }));
  return idsOf(includePrefetched(scheduled, state, { experts, sequences }));
}

test("keeps a choice that uses all prefetched experts", () => {
  expect(included(["s0", "s1"], [], [])).toEqual(["s0", "s1"]);
  expect(included(["s0", "s1"], [1], ["s1"])).toEqual(["s0", "s1"]);
});

test("puts a sequence that an expert was read for before the last chosen ones", () => {
  expect(included(["s0", "s1"], [2], ["s2", "s3"])).toEqual(["s2", "s0"]);
});

test("adds sequences that need no further expert if there is room", () => {
  expect(included(["s0"], [2], ["s2", "s3"], { ...LIMITS, maxNumBatchedSeqs: 4 })).toEqual(["s2", "s0", "s3"]);
});

test("leaves an expert unused that no sequence needs any more", () => {
  expect(included(["s0", "s1"], [5], ["s2"])).toEqual(["s0", "s1"]);
  expect(included(["s0", "s1"], [2], ["gone"])).toEqual(["s0", "s1"]);
});

test.each(Object.entries(SCHEDULERS))("keeps limits and uses all prefetched experts after %s", (_, scheduler) => {
  let numChanged = 0;
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const random = seededRandom(seed);
      const state = randomState(random);
      // The forecast had other times and other weights in memory.
      const rehearsed = scheduler({ ...state, nowMs: 0, missingBytes: [] });
      const chosen = scheduler(state);
      const chunk = ({ id }: ScheduledSequence) => {
        const sequence = state.sequences.find((one) => one.id === id) as SchedulableSequence;
        const numTokens = nextChunkTokens(sequence, state.limits.chunkTokens);
        return { numTokens, experts: Array.from(sequence.nextExperts).slice(0, numTokens) };
      };
      const planned = Array.from(new Set(rehearsed.flatMap((one) => chunk(one).experts)));
      const experts = planned.filter(() => random() < 0.5);
      const before = structuredClone(state);
      const result = includePrefetched(chosen, state, { experts, sequences: idsOf(rehearsed) });
      expect(state).toEqual(before);
      expect(includePrefetched(chosen, state, { experts, sequences: idsOf(rehearsed) })).toEqual(result);
      const run = new Set(result.flatMap((one) => chunk(one).experts));
      for (const expert of experts) expect(run).toContain(expert);
      expect(new Set(idsOf(result)).size).toBe(result.length);
      expect(result.length).toBeLessThanOrEqual(state.limits.maxNumBatchedSeqs);
      const numTokens = result.reduce((sum, one) => sum + one.numTokens, 0);
      expect(numTokens).toBeLessThanOrEqual(state.limits.maxNumBatchedTokens);
      for (const one of result) expect(one.numTokens).toBe(chunk(one).numTokens);
      if (result !== chosen) numChanged++;
    }),
    { numRuns: 300 },
  );
  expect(numChanged).toBeGreaterThan(0);
});

/** Each policy under some of the schedulers, and each scheduler with some policies; the long tests take all pairs. */
const policiesOf = (scheduler: string): readonly EvictionPolicyName[] =>
  EVICTION_POLICIES.filter(
    (_, index) => RUNS_LONG_TESTS || (index + Object.keys(SCHEDULERS).indexOf(scheduler)) % 3 === 0,
  );

describe.each(Object.entries(SCHEDULERS))("in a simulated server under %s", (name, scheduler) => {
  test.each(policiesOf(name))("wastes no read while sequences arrive and waits end, %s", (policy) => {
    for (let seed = 0; seed < 12; seed++) {
      const { trace, options } = load(seed);
      const { loads, wastedLoads, evictions } = simulate(trace, {
        ...options,
        scheduler,
        cache: { ...options.cache, policy },
      });
      expect(wastedLoads).toBe(0);
      expect(Math.min(loads, evictions)).toBeGreaterThan(0);
    }
  });

  test("bounds waits by the limit plus one step for each sequence and one more", () => {
    for (let seed = 0; seed < 12; seed++) {
      const { trace, options } = load(seed);
      const steps: { readonly nowMs: number; readonly longestMs: number }[] = [];
      let isRehearsal = true;
      const watched: Scheduler = (state) => {
        isRehearsal = !isRehearsal;
        const { nowMs, sequences } = state;
        const longestMs = Math.max(...sequences.map(({ waitingSinceMs }) => nowMs - waitingSinceMs));
        if (!isRehearsal) steps.push({ nowMs, longestMs });
        return scheduler(state);
      };
      const { durationMs } = simulate(trace, { ...options, scheduler: watched });
      const ends = [...steps.slice(1).map(({ nowMs }) => nowMs), durationMs];
      const longestStepMs = Math.max(...steps.map(({ nowMs }, step) => (ends[step] as number) - nowMs));
      const longestMs = Math.max(...steps.map((step) => step.longestMs));
      expect(longestMs).toBeLessThanOrEqual(MAX_DELAY_MS + (options.maxNumSeqs + 1) * longestStepMs);
    }
  });
});

/** A load above the limits of a step, with prompts in several chunks, and memory for some of the experts. */
function load(seed: number) {
  const random = seededRandom(seed);
  const layerBytes = Array.from({ length: 2 + randomInteger(random, 4) }, () => 100);
  const lengths = { meanPromptTokens: 20, meanOutputTokens: 12, arrivalsPerStep: 0.5 };
  const trace = generateTrace({ numExperts: 5, layerBytes, numSequences: 40, seed, ...lengths });
  const cost: CostModel = {
    fixedMs: 3,
    msPerToken: 0.5,
    msPerExpert: 2,
    msPerCachedToken: 0.01,
    loadMsPerByte: 0.04 * random(),
  };
  const limits = { maxNumBatchedSeqs: 1 + randomInteger(random, 4), maxNumBatchedTokens: 40, chunkTokens: 8 };
  const capacity = 5 + randomInteger(random, 5 * layerBytes.length - 5);
  return { trace, options: { limits, maxNumSeqs: 10, cost, cache: { budgetBytes: 100 * capacity } } };
}
