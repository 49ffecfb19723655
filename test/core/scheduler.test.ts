import { fcfs, nextChunkTokens, type SchedulableSequence, type SchedulerLimits } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";

const LIMITS: SchedulerLimits = { maxNumBatchedSeqs: 4, maxNumBatchedTokens: 256, chunkTokens: 128 };

function sequence(arrival: number, numTokens: number, numComputedTokens = 0, priority = 0): SchedulableSequence {
  const nextExperts = new Uint16Array(numTokens - numComputedTokens);
  return { id: `s${arrival}`, arrival, arrivalMs: arrival, priority, numTokens, numComputedTokens, nextExperts };
}

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

describe("first come, first served", () => {
  test("takes sequences in order of arrival, decoding and prefill alike", () => {
    const sequences = [sequence(3, 10), sequence(1, 21, 20), sequence(2, 200)];
    expect(fcfs({ sequences, nowMs: 0, limits: LIMITS })).toEqual([
      { id: "s1", numTokens: 1 },
      { id: "s2", numTokens: 128 },
      { id: "s3", numTokens: 10 },
    ]);
  });

  test("lets priority go first", () => {
    const sequences = [sequence(1, 5), sequence(2, 5), sequence(3, 5, 0, 1)];
    const limits = { ...LIMITS, maxNumBatchedSeqs: 2 };
    expect(fcfs({ sequences, nowMs: 0, limits }).map(({ id }) => id)).toEqual(["s3", "s1"]);
  });

  test("leaves a chunk that does not fit for later, and lets those behind it go ahead", () => {
    const sequences = [sequence(1, 128), sequence(2, 100), sequence(3, 120), sequence(4, 9, 8)];
    expect(fcfs({ sequences, nowMs: 0, limits: LIMITS }).map(({ id }) => id)).toEqual(["s1", "s2", "s4"]);
  });

  test("keeps every limit, never chooses twice, never chooses nothing, and leaves its input alone", () => {
    const random = seededRandom(4);
    for (let round = 0; round < 500; round++) {
      const sequences = Array.from({ length: 1 + randomInteger(random, 20) }, (_, arrival) => {
        const numTokens = 1 + randomInteger(random, 500);
        return sequence(arrival, numTokens, randomInteger(random, numTokens), randomInteger(random, 3));
      });
      const limits = {
        maxNumBatchedSeqs: 1 + randomInteger(random, 8),
        maxNumBatchedTokens: 128 + randomInteger(random, 200),
        chunkTokens: 128,
      };
      const before = structuredClone(sequences);
      const scheduled = fcfs({ sequences, nowMs: 0, limits });
      expect(sequences).toEqual(before);
      expect(scheduled.length).toBeGreaterThan(0);
      expect(scheduled.length).toBeLessThanOrEqual(limits.maxNumBatchedSeqs);
      expect(new Set(scheduled.map(({ id }) => id)).size).toBe(scheduled.length);
      expect(scheduled.reduce((sum, { numTokens }) => sum + numTokens, 0)).toBeLessThanOrEqual(
        limits.maxNumBatchedTokens,
      );
      for (const { id, numTokens } of scheduled) {
        const chosen = sequences.find((one) => one.id === id) as SchedulableSequence;
        expect(numTokens).toBe(nextChunkTokens(chosen, 128));
      }
    }
  });
});
