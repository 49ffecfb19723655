// Waiting for another sequence that reads the same beginning, beside a plain count of what two prompts share.

import { type PartlyRead, sharedEnd } from "@readme-moe/core";
import { expect, test } from "vitest";
import * as fc from "../support/fast-check.ts";

const CHUNK = 4;

const prompts = fc.record({
  tokenIds: fc.array(fc.constantFrom(1, 1, 1, 1, 1, 1, 2), { minLength: 1, maxLength: 24, size: "max" }),
  expertsFrom: fc.constantFrom(24, 24, 24, 5),
  client: fc.constantFrom(undefined, undefined, "a"),
  cacheSalt: fc.constantFrom(undefined, undefined, "s"),
  priority: fc.constantFrom(0, 0, 1),
  computedShare: fc.constantFrom(0, 0.2, 0.5, 0.9, 1),
});

type Drawn = typeof prompts extends fc.Arbitrary<infer Value> ? Value : never;

function promptOf({ tokenIds, expertsFrom, client, cacheSalt, priority }: Drawn): PartlyRead {
  const experts = tokenIds.map((_, at) => Number(at >= expertsFrom));
  const owner = { client, cacheSalt, priority };
  return { tokenIds, experts, ...owner, promptTokens: tokenIds.length, numComputedTokens: 0 };
}

function plainEnd(waiting: PartlyRead, reader: PartlyRead): number {
  if (reader.client !== waiting.client || reader.cacheSalt !== waiting.cacheSalt) return 0;
  if (reader.priority < waiting.priority || reader.numComputedTokens >= reader.promptTokens) return 0;
  let common = 0;
  while (common < Math.min(waiting.tokenIds.length - 1, reader.promptTokens)) {
    if (waiting.tokenIds[common] !== reader.tokenIds[common]) break;
    if (waiting.experts[common] !== reader.experts[common]) break;
    common++;
  }
  const end = common - (common % CHUNK);
  return end > reader.numComputedTokens ? end : 0;
}

test("a prompt waits for the whole chunks that it shares with a reader and that are not computed", () => {
  let numWaits = 0;
  fc.assert(
    fc.property(prompts, prompts, (first, second) => {
      const waiting = promptOf(first);
      const reading = promptOf(second);
      const numComputedTokens = Math.floor(second.computedShare * reading.promptTokens);
      const reader = { ...reading, numComputedTokens };
      const expected = plainEnd(waiting, reader);
      expect(sharedEnd(waiting, reader, CHUNK)).toBe(expected);
      if (expected > 0) numWaits++;
    }),
    { numRuns: 2000 },
  );
  expect(numWaits).toBeGreaterThan(50);
});
