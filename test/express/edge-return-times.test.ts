// When those who are turned away are told to come back.

import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import {
  msPerRelease,
  NO_RETURN_TIMES,
  promiseReturn,
  recordRelease,
} from "../../packages/express/src/edge/admission/return-times.ts";

test("with no place given back yet, one place takes a second", () => {
  expect(msPerRelease(NO_RETURN_TIMES, 123)).toBe(1000);
});

test("those who are turned away together come back one after the other, as fast as places are given back", () => {
  let times = NO_RETURN_TIMES;
  for (let ms = 0; ms <= 1000; ms += 100) times = recordRelease(times, ms);
  const waits: number[] = [];
  for (let i = 0; i < 4; i++) {
    const promised = promiseReturn(times, { places: 1, numWaiting: 0, maxQueueMs: 30_000 }, 1100);
    waits.push(promised.waitMs);
    times = promised.times;
  }
  expect(waits).toEqual([100, 200, 300, 400]);
});

test("nobody comes back to a queue that is too long to be served in", () => {
  const times = { releasesMs: [0, 100, 200, 300], promisedUntilMs: 0 };
  // 100 ms a place: the last of 150 waits for 15 s, so its turn is in time in 10 s.
  const turned = { places: 1, numWaiting: 150, maxQueueMs: 5000 };
  expect(promiseReturn(times, turned, 400).waitMs).toBe(10_000);
});

test("waits are integers from 1 to 60,000, grow from one to the next, and say nothing of long ago", () => {
  const releases = fc.array(fc.integer({ min: 0, max: 100_000 }), { maxLength: 80 });
  const turned = fc.record({
    places: fc.integer({ min: 1, max: 1000 }),
    numWaiting: fc.integer({ min: 0, max: 5000 }),
    maxQueueMs: fc.integer({ min: 1, max: 60_000 }),
  });
  fc.assert(
    fc.property(releases, fc.array(turned, { minLength: 1, maxLength: 20 }), (releasedMs, all) => {
      let times = NO_RETURN_TIMES;
      for (const ms of releasedMs.toSorted((a, b) => a - b)) times = recordRelease(times, ms);
      expect(times.releasesMs.length).toBeLessThanOrEqual(32);
      let before = 0;
      for (const one of all) {
        const { waitMs, times: after } = promiseReturn(times, { ...one, numWaiting: 0 }, 100_000);
        expect(Number.isInteger(waitMs) && waitMs >= 1 && waitMs <= 60_000).toBe(true);
        expect(waitMs).toBeGreaterThanOrEqual(before);
        expect(promiseReturn(times, one, 100_000).waitMs).toBeGreaterThanOrEqual(waitMs);
        [times, before] = [after, waitMs];
      }
      expect(msPerRelease(times, 200_000)).toBe(1000);
    }),
  );
});
