// When a failed engine is opened again.

import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import { nextAttempt, NO_ATTEMPTS, resolveRestartOptions } from "../../packages/express/src/edge/models/options.ts";

const jitter = 0;

test("waits double up to `maxDelayMs`, end after `maxAttempts`, and begin anew for an engine that has settled", () => {
  const policy = resolveRestartOptions({ firstDelayMs: 10, maxDelayMs: 50, maxAttempts: 5, settledMs: 1000, jitter });
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

test("delays are between `firstDelayMs` and `maxDelayMs`", () => {
  const policy = resolveRestartOptions({ firstDelayMs: 7, maxDelayMs: 7000, maxAttempts: 2000, jitter });
  fc.assert(
    fc.property(fc.nat(1999), (count) => {
      const next = nextAttempt(policy, { count, succeededMs: undefined }, 0);
      expect(next?.delayMs).toBe(Math.min(7000, 7 * 2 ** count));
    }),
  );
});

test("jitter cuts at most its share of a wait", () => {
  fc.assert(
    fc.property(
      fc.nat(9),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (count, share, chance) => {
        const policy = resolveRestartOptions({ firstDelayMs: 100, jitter: share, random: () => chance });
        const wholeMs = Math.min(60_000, 100 * 2 ** count);
        const delayMs = nextAttempt(policy, { count, succeededMs: undefined }, 0)?.delayMs ?? Number.NaN;
        expect(delayMs).toBeCloseTo(wholeMs - wholeMs * share * chance, 6);
        expect(delayMs).toBeGreaterThanOrEqual(0);
        expect(delayMs).toBeLessThanOrEqual(wholeMs);
      },
    ),
  );
});

test.each([
  [{ jitter: 1.5 }, RangeError, "`jitter`"],
  [{ jitter: "much" }, TypeError, "`jitter`"],
  [{ random: 4 }, TypeError, "`random`"],
  [{ maxAttempt: 4 }, TypeError, "`maxAttempts`"],
])("wrong options are refused: %j", (options, kind, named) => {
  expect(() => resolveRestartOptions(options as never)).toThrow(kind);
  expect(() => resolveRestartOptions(options as never)).toThrow(named);
});
