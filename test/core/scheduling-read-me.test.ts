import { nextChunkTokens, readMe, type SchedulableSequence, type SchedulerState } from "@readme-moe/core";
import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import { seededRandom } from "../support/random.ts";
import { decoding, idsOf, prefilling, randomState, stateOf } from "../support/scheduling.ts";

const LIMITS = { maxNumBatchedSeqs: 10, maxNumBatchedTokens: 200, chunkTokens: 128 };

/** Algorithm 1 of Read-ME word by word, with the corrected index, an end, and queues in order of arrival. */
function algorithm1({ sequences, limits }: SchedulerState): readonly string[] {
  const queues = new Map<number, SchedulableSequence[]>();
  for (const sequence of sequences.toSorted((a, b) => a.arrival - b.arrival)) {
    const expert = mostFrequent(Array.from(sequence.nextExperts).slice(0, tokensOf(sequence)));
    queues.set(expert, [...(queues.get(expert) ?? []), sequence]);
  }
  const scheduled: SchedulableSequence[] = [];
  for (;;) {
    const lens = Array.from(queues, ([expert, queue]) => ({ expert, len: total(queue) }));
    const longest = lens.reduce((best, one) => (one.len > best.len ? one : best), { expert: -1, len: 0 });
    const queue = queues.get(longest.expert);
    if (!queue) break;
    const nAvailable = limits.maxNumBatchedTokens - total(scheduled);
    const nSeqs = limits.maxNumBatchedSeqs - scheduled.length;
    if (longest.len <= nAvailable && queue.length <= nSeqs) {
      scheduled.push(...queue);
      queues.delete(longest.expert);
    } else {
      for (const sequence of queue) {
        const isRoom = total([...scheduled, sequence]) <= limits.maxNumBatchedTokens;
        if (isRoom && scheduled.length < limits.maxNumBatchedSeqs) scheduled.push(sequence);
      }
      break;
    }
  }
  return scheduled.map(({ id }) => id);

  function tokensOf(sequence: SchedulableSequence): number {
    return nextChunkTokens(sequence, limits.chunkTokens);
  }
  function total(queue: readonly SchedulableSequence[]): number {
    return queue.reduce((sum, sequence) => sum + tokensOf(sequence), 0);
  }
}

function mostFrequent(experts: readonly number[]): number {
  const count = (expert: number): number => experts.filter((one) => one === expert).length;
  return experts.toSorted((a, b) => count(b) - count(a) || a - b)[0] as number;
}

test("is Algorithm 1 while no sequence is overdue", () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const state = randomState(seededRandom(seed));
      const equals = { ...state, sequences: state.sequences.map((sequence) => ({ ...sequence, priority: 0 })) };
      expect(idsOf(readMe({ maxDelayMs: 1001 })(equals))).toEqual(algorithm1(equals));
    }),
    { numRuns: 1000 },
  );
});

test("takes the longest queue first, and a part of the one that does not fit", () => {
  const sequences = [decoding(1, 0), decoding(2, 1), decoding(3, 2), decoding(4, 1), decoding(5, 2), decoding(6, 2)];
  const limits = { ...LIMITS, maxNumBatchedSeqs: 4 };
  expect(idsOf(readMe()(stateOf(sequences, { limits })))).toEqual(["s3", "s5", "s6", "s2"]);
});

test("counts a chunk in the queue of the expert that most of its tokens need", () => {
  const chunk = prefilling(3, [0, 1, 1, 2, 2, 2]);
  const sequences = [decoding(1, 0), decoding(2, 2), chunk];
  expect(idsOf(readMe()(stateOf(sequences, { limits: { ...LIMITS, maxNumBatchedSeqs: 2 } })))).toEqual(["s2", "s3"]);
});

test("ends a step with all queues empty", () => {
  expect(idsOf(readMe()(stateOf([decoding(1, 0), decoding(2, 1)])))).toEqual(["s1", "s2"]);
});

test("puts the longest overdue sequence first, and then its queue", () => {
  const old = { waitingSinceMs: -600 };
  const sequences = [
    ...[1, 2, 3].map((arrival) => decoding(arrival, 0)),
    decoding(4, 1),
    decoding(5, 1, { waitingSinceMs: -700 }),
    decoding(6, 2, old),
  ];
  const limits = { ...LIMITS, maxNumBatchedSeqs: 3 };
  expect(idsOf(readMe()(stateOf(sequences, { limits })))).toEqual(["s5", "s4", "s1"]);
  expect(idsOf(readMe({ maxDelayMs: 700 })(stateOf(sequences, { limits })))).toEqual(["s1", "s2", "s3"]);
});

test("puts queues of a higher priority before longer ones", () => {
  const sequences = [decoding(1, 0), decoding(2, 0), decoding(3, 1, { priority: 1 })];
  expect(idsOf(readMe()(stateOf(sequences, { limits: { ...LIMITS, maxNumBatchedSeqs: 2 } })))).toEqual(["s3", "s1"]);
});
