// When refused clients are told to come back.

import * as fc from "../support/fast-check.ts";
import { expect, test } from "vitest";
import {
  msPerRelease,
  NO_RETURN_TIMES,
  promiseReturn,
  recordRelease,
} from "../../packages/express/src/edge/admission.ts";

test("one place takes a second while no release is known", () => {
  expect(msPerRelease(NO_RETURN_TIMES, 123)).toBeUndefined();
  expect(promiseReturn(NO_RETURN_TIMES, { places: 3, numWaiting: 0, maxQueueMs: 30_000 }, 123).waitMs).toBe(3000);
});

test("clients that are refused together return one after the other, at the pace of the releases", () => {
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

test("no client returns while the queue is too long to be served in time", () => {
  const times = { releasesMs: [0, 100, 200, 300], promisedUntilMs: 0 };
  // At 100 ms a place, the last of 150 waits for 15 s; in 10 s it would start in time.
  const turned = { places: 1, numWaiting: 150, maxQueueMs: 5000 };
  expect(promiseReturn(times, turned, 400).waitMs).toBe(10_000);
});

test("the latest 32 releases of the last minute count", () => {
  let times = NO_RETURN_TIMES;
  for (let ms = 1; ms <= 40; ms++) times = recordRelease(times, ms);
  expect(times.releasesMs).toEqual(Array.from({ length: 32 }, (_, index) => 9 + index));
  expect(msPerRelease({ releasesMs: [0], promisedUntilMs: 0 }, 59_999)).toBe(59_999);
  expect(msPerRelease({ releasesMs: [0], promisedUntilMs: 0 }, 60_000)).toBeUndefined();
  expect(msPerRelease({ releasesMs: [0, 40_000], promisedUntilMs: 0 }, 70_000)).toBe(30_000);
  expect(msPerRelease({ releasesMs: [5, 5, 5], promisedUntilMs: 0 }, 5)).toBe(1);
});

test.each([
  ["the earlier promises and its places", { places: 2, numWaiting: 0 }, 500, 1100, 1100],
  ["its places where earlier promises have passed", { places: 2, numWaiting: 0 }, 0, 600, 600],
  ["a short queue, which later promises do not wait for", { places: 2, numWaiting: 100 }, 0, 600, 5400],
  ["a minute at most", { places: 1000, numWaiting: 0 }, 0, 60_400, 60_400],
  ["a minute at most, however long the queue is", { places: 2, numWaiting: 5000 }, 0, 600, 60_400],
] as const)("a return waits for %s", (_, refused, aheadMs, promisedUntilMs, untilMs) => {
  const nowMs = 400;
  const before = { releasesMs: [0, 100, 200, 300], promisedUntilMs: nowMs + aheadMs };
  const { times, waitMs } = promiseReturn(before, { ...refused, maxQueueMs: 5000 }, nowMs);
  expect({ ...times, waitMs }).toEqual({ releasesMs: before.releasesMs, promisedUntilMs, waitMs: untilMs - nowMs });
});

test("waits are integers from 1 to 60,000, do not decrease, and forget releases of long ago", () => {
  const releases = fc.array(fc.integer({ min: 0, max: 100_000 }), { maxLength: 80, size: "max" });
  const turned = fc.record({
    places: fc.integer({ min: 1, max: 1000 }),
    numWaiting: fc.integer({ min: 0, max: 5000 }),
    maxQueueMs: fc.integer({ min: 1, max: 60_000 }),
  });
  fc.assert(
    fc.property(releases, fc.array(turned, { minLength: 1, maxLength: 20, size: "max" }), (releasedMs, all) => {
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
      expect(msPerRelease(times, 200_000)).toBeUndefined();
    }),
  );
});
