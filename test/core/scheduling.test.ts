// The contract of every scheduler.

import { costAware, fcfs, nextChunkTokens, readMe, type SchedulableSequence, type Scheduler } from "@readme-moe/core";
import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import { RUNS_LONG_TESTS } from "../support/long-tests.ts";
import { seededRandom } from "../support/random.ts";
import { idsOf, randomCost, randomRequests, randomState, serve } from "../support/scheduling.ts";

const MAX_DELAY_MS = 400;
const AGEING: Readonly<Record<string, Scheduler>> = {
  "fcfs by arrival": fcfs({ maxDelayMs: MAX_DELAY_MS }),
  "fcfs, decoding first": fcfs({ prefillShare: 0, maxDelayMs: MAX_DELAY_MS }),
  "fcfs, half prefill": fcfs({ prefillShare: 0.5, maxDelayMs: MAX_DELAY_MS }),
  "fcfs, prefill first": fcfs({ prefillShare: 1, maxDelayMs: MAX_DELAY_MS }),
  "read-me": readMe({ maxDelayMs: MAX_DELAY_MS }),
  "cost-aware": costAware({ maxDelayMs: MAX_DELAY_MS, maxStepMs: 100 }),
};
const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  ...AGEING,
  "fcfs without ageing": fcfs(),
  "read-me without ageing": readMe({ maxDelayMs: Infinity }),
  "cost-aware without ageing": costAware({ maxDelayMs: Infinity }),
};

describe("a sequence's next chunk", () => {
  test("ends at a multiple of the chunk size, wherever it begins", () => {
    expect(nextChunkTokens({ numTokens: 300, numComputedTokens: 0 }, 128)).toBe(128);
    expect(nextChunkTokens({ numTokens: 300, numComputedTokens: 100 }, 128)).toBe(28);
    expect(nextChunkTokens({ numTokens: 300, numComputedTokens: 256 }, 128)).toBe(44);
    expect(nextChunkTokens({ numTokens: 5, numComputedTokens: 4 }, 128)).toBe(1);
  });

  test("covers a prompt exactly, whatever its length", () => {
    for (let numTokens = 1; numTokens < 400; numTokens++) {
      const ends: number[] = [];
      for (let done = 0; done < numTokens;) {
        done += nextChunkTokens({ numTokens, numComputedTokens: done }, 64);
        ends.push(done);
      }
      expect(ends.at(-1)).toBe(numTokens);
      expect(ends.slice(0, -1).every((end) => end % 64 === 0)).toBe(true);
    }
  });
});

describe.each(Object.entries(SCHEDULERS))("%s", (_, scheduler) => {
  test("keeps every limit, chooses distinct sequences and at least one, and does not change its input", () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const state = randomState(seededRandom(seed));
        const before = structuredClone(state);
        const scheduled = scheduler(state);
        expect(state).toEqual(before);
        expect(scheduled.length).toBeGreaterThan(0);
        expect(scheduled.length).toBeLessThanOrEqual(state.limits.maxNumBatchedSeqs);
        expect(new Set(idsOf(scheduled)).size).toBe(scheduled.length);
        const numTokens = scheduled.reduce((sum, one) => sum + one.numTokens, 0);
        expect(numTokens).toBeLessThanOrEqual(state.limits.maxNumBatchedTokens);
        for (const one of scheduled) {
          const chosen = state.sequences.find(({ id }) => id === one.id) as SchedulableSequence;
          expect(one.numTokens).toBe(nextChunkTokens(chosen, state.limits.chunkTokens));
        }
      }),
      { numRuns: RUNS_LONG_TESTS ? 300 : 100 },
    );
  });

  test("is deterministic, whatever the order of its input", () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const state = randomState(seededRandom(seed));
        const scheduled = scheduler(state);
        expect(scheduler(state)).toEqual(scheduled);
        expect(scheduler({ ...state, sequences: state.sequences.toReversed() })).toEqual(scheduled);
      }),
      { numRuns: 100 },
    );
  });

  test("chooses nothing if there are no sequences", () => {
    expect(scheduler({ ...randomState(seededRandom(1)), sequences: [] })).toEqual([]);
  });

  test("works if steps cost nothing", () => {
    const cost = { fixedMs: 0, msPerToken: 0, msPerExpert: 0, msPerCachedToken: 0, loadMsPerByte: 0 };
    for (let seed = 0; seed < 50; seed++) {
      expect(scheduler({ ...randomState(seededRandom(seed)), cost }).length).toBeGreaterThan(0);
    }
  });

  test("finishes every sequence of random arrivals and priorities", () => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { requests, server } = randomLoad(seed);
        expect(Object.keys(serve(scheduler, requests, server).normalisedMs)).toHaveLength(requests.length);
      }),
      { numRuns: 10 },
    );
  });
});

test.each(Object.entries(AGEING))(
  "%s bounds waits by the limit plus one step for each running sequence",
  (_, scheduler) => {
    fc.assert(
      fc.property(fc.nat(), (seed) => {
        const { requests, server } = randomLoad(seed);
        const { longestWaitMs, longestStepMs } = serve(scheduler, requests, server);
        expect(longestWaitMs).toBeLessThanOrEqual(MAX_DELAY_MS + server.maxNumSeqs * longestStepMs);
      }),
      { numRuns: 20 },
    );
  },
);

test("waits are longer without the limit", () => {
  const { requests, server } = randomLoad(3);
  const { longestWaitMs, longestStepMs } = serve(fcfs(), requests, server);
  expect(longestWaitMs).toBeGreaterThan(MAX_DELAY_MS + server.maxNumSeqs * longestStepMs);
});

/** A load that exceeds a server: few places in a step, and experts that are loaded repeatedly. */
function randomLoad(seed: number) {
  const random = seededRandom(seed);
  const requests = randomRequests(random, 40, 20).map((request) => ({
    ...request,
    priority: Math.floor(3 * random()),
  }));
  const limits = { maxNumBatchedSeqs: 1 + Math.floor(4 * random()), maxNumBatchedTokens: 128, chunkTokens: 64 };
  const server = { limits, maxNumSeqs: 10, cost: randomCost(random), expertBytes: 20e6, maxResident: 2 };
  return { requests, server };
}
