import { expect, test } from "vitest";
import { Paces } from "../../packages/express/src/http/request.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

test("a client that sends continuously takes only its share of the time and delays no other client", () => {
  const random = seededRandom(5);
  const paces = new Paces(0.2);
  let [nowMs, spentMs] = [0, 0];
  while (nowMs < 60_000) {
    const waitMs = paces.waitMs("greedy", nowMs);
    if (waitMs > 0) {
      nowMs += waitMs;
      continue;
    }
    const tell = paces.begin("greedy", randomInteger(random, 4 << 20), nowMs);
    const durationMs = 6 + randomInteger(random, 100);
    nowMs += durationMs;
    spentMs += durationMs;
    tell(durationMs, nowMs);
    expect(paces.waitMs("other", nowMs)).toBe(0);
  }
  expect(spentMs / nowMs).toBeLessThan(0.25);
  expect(spentMs / nowMs).toBeGreaterThan(0.08);
});

test("bodies that begin together take turns by their length", () => {
  const paces = new Paces(0.25);
  const waits = [1, 2, 3].map(() => {
    const waitMs = paces.waitMs("a", 0);
    paces.begin("a", 2 ** 20, 0);
    return waitMs;
  });
  expect(waits).toEqual([0, 36, 72]);
});

test("short bodies do not wait", () => {
  const paces = new Paces();
  for (let index = 0; index < 1000; index++) paces.begin("a", 10_000, index)(1, index);
  expect(paces.waitMs("a", 1000)).toBe(0);
});
