// When an engine that failed is opened again.

import * as fc from "fast-check";
import { expect, test } from "vitest";
import {
  nextAttempt,
  NO_ATTEMPTS,
  resolveRestartOptions,
} from "../../packages/express/src/edge/models/restart-policy.ts";

test("waits double up to the longest, end after so many, and begin anew for one that worked for long", () => {
  const policy = resolveRestartOptions({ firstDelayMs: 10, maxDelayMs: 50, maxAttempts: 5, settledMs: 1000 });
  const delays: number[] = [];
  let attempts = NO_ATTEMPTS;
  for (;;) {
    const next = nextAttempt(policy, attempts, 0);
    if (!next) break;
    delays.push(next.delayMs);
    attempts = { count: next.count, succeededMs: undefined };
  }
  expect(delays).toEqual([10, 20, 40, 50, 50]);
  expect(nextAttempt(policy, { count: 5, succeededMs: 0 }, 999)).toBeUndefined();
  expect(nextAttempt(policy, { count: 5, succeededMs: 0 }, 1000)).toEqual({ count: 1, delayMs: 10 });
});

test("no delay is longer than the longest, and none shorter than the first", () => {
  const policy = resolveRestartOptions({ firstDelayMs: 7, maxDelayMs: 7000, maxAttempts: 2000 });
  fc.assert(
    fc.property(fc.nat(1999), (count) => {
      const next = nextAttempt(policy, { count, succeededMs: undefined }, 0);
      expect(next?.delayMs).toBe(Math.min(7000, 7 * 2 ** count));
    }),
  );
});
