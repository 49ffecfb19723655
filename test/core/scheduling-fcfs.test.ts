import { fcfs } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { decoding, idsOf, LIMITS, schedulable, stateOf } from "../support/scheduling.ts";

const WIDE = { maxNumBatchedSeqs: 10, maxNumBatchedTokens: 400, chunkTokens: 128 };
/** Two decoding sequences between four prompts. */
const MIXED = [
  schedulable(1, { numTokens: 100 }),
  decoding(2, 0),
  schedulable(3, { numTokens: 100 }),
  schedulable(4, { numTokens: 100 }),
  decoding(5, 0),
  schedulable(6, { numTokens: 100 }),
];

describe("by arrival", () => {
  test("takes sequences in order, decoding and prefill alike", () => {
    const sequences = [schedulable(3, { numTokens: 10 }), decoding(1, 0), schedulable(2, { numTokens: 200 })];
    expect(fcfs()(stateOf(sequences))).toEqual([
      { id: "s1", numTokens: 1 },
      { id: "s2", numTokens: 128 },
      { id: "s3", numTokens: 10 },
    ]);
  });

  test("puts a higher priority first", () => {
    const sequences = [1, 2, 3].map((arrival) =>
      schedulable(arrival, { numTokens: 5, priority: arrival === 3 ? 1 : 0 }),
    );
    const limits = { ...LIMITS, maxNumBatchedSeqs: 2 };
    expect(idsOf(fcfs()(stateOf(sequences, { limits })))).toEqual(["s3", "s1"]);
  });

  test("leaves a chunk that does not fit for later, and lets later ones go ahead", () => {
    const lengths = [128, 100, 120];
    const prompts = lengths.map((numTokens, index) => schedulable(index + 1, { numTokens }));
    expect(idsOf(fcfs()(stateOf([...prompts, decoding(4, 0)])))).toEqual(["s1", "s2", "s4"]);
  });

  test("ignores waits, unless `maxDelayMs` is set", () => {
    const sequences = [decoding(1, 0), decoding(2, 0, { waitingSinceMs: -1e9 })];
    const limits = { ...LIMITS, maxNumBatchedSeqs: 1 };
    expect(idsOf(fcfs()(stateOf(sequences, { limits })))).toEqual(["s1"]);
    expect(idsOf(fcfs({ maxDelayMs: 1000 })(stateOf(sequences, { limits })))).toEqual(["s2"]);
  });
});

describe("with a share for prefill", () => {
  test.each([
    [0, ["s2", "s5"]],
    [0.1, ["s1", "s2", "s5"]],
    [0.5, ["s1", "s3", "s2", "s5"]],
    [1, ["s1", "s3", "s4", "s6"]],
  ])("of %d", (prefillShare, expected) => {
    expect(idsOf(fcfs({ prefillShare })(stateOf(MIXED, { limits: WIDE })))).toEqual(expected);
  });

  test("limits places too", () => {
    const limits = { ...WIDE, maxNumBatchedSeqs: 3 };
    expect(idsOf(fcfs({ prefillShare: 0.3 })(stateOf(MIXED, { limits })))).toEqual(["s1", "s2", "s5"]);
  });

  test.each([0, 0.5])("of %d, gives prefill the whole step if no sequence decodes", (prefillShare) => {
    const prompts = MIXED.filter(({ numComputedTokens }) => numComputedTokens === 0);
    expect(idsOf(fcfs({ prefillShare })(stateOf(prompts, { limits: WIDE })))).toEqual(["s1", "s3", "s4", "s6"]);
  });

  test("puts priority before it", () => {
    const sequences = [...MIXED, decoding(7, 0, { priority: 1 })];
    const limits = { ...WIDE, maxNumBatchedSeqs: 2 };
    expect(idsOf(fcfs({ prefillShare: 1 })(stateOf(sequences, { limits })))).toEqual(["s7", "s1"]);
  });
});
