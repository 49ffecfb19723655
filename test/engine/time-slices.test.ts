import { describe, expect, test } from "vitest";
import { TimeSlices } from "../../packages/engine/src/worker/requests.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Creates slices whose clock advances with each piece of work. */
function setup(): {
  slices: TimeSlices;
  work: (name: string, pieces: number, log?: string[]) => Generator<void, string>;
} {
  let nowMs = 0;
  const slices = new TimeSlices(() => nowMs);
  return {
    slices,
    *work(name, pieces, log = []) {
      for (let piece = 0; piece < pieces; piece++) {
        nowMs += 0.5;
        log.push(name);
        yield;
      }
      return name;
    },
  };
}

describe("time slices", () => {
  test("finish short work at once", async () => {
    const { slices, work } = setup();
    const done = slices.begin(work("short", 1));
    expect(slices.hasWork).toBe(false);
    await expect(done).resolves.toBe("short");
  });

  test("let short work end after a few slices of long work", async () => {
    const { slices, work } = setup();
    const ended: string[] = [];
    const all = [
      ["long", 1000],
      ["short", 20],
      ["other", 300],
    ] as const;
    const ending = function* (name: string, pieces: number): Generator<void, void> {
      yield* work(name, pieces);
      ended.push(name);
    };
    const done = all.map(([name, pieces]) => slices.begin(ending(name, pieces)));
    let rounds = 0;
    for (; slices.hasWork; rounds++) slices.run();
    await Promise.all(done);
    expect(ended).toEqual(["short", "other", "long"]);
    // 1320 pieces of half a millisecond, ten of them in each slice of 5 ms.
    expect(rounds).toBeGreaterThanOrEqual(125);
    expect(rounds).toBeLessThan(140);
  });

  test("share the time evenly among works that begin and end at random", async () => {
    const random = seededRandom(4);
    const { slices, work } = setup();
    const log: string[] = [];
    const names = Array.from({ length: 8 }, (_, index) => `work ${index}`);
    const lengths = names.map(() => 100 + randomInteger(random, 400));
    const done = names.map((name, index) => slices.begin(work(name, lengths[index] ?? 0, log)));
    while (slices.hasWork) slices.run();
    await Promise.all(done);
    // While all works run, none is more than two slices ahead of another.
    const counts = new Map(names.map((name) => [name, 0]));
    const shortest = Math.min(...lengths);
    for (const name of log) {
      counts.set(name, (counts.get(name) ?? 0) + 1);
      if (Math.max(...counts.values()) >= shortest) break;
      expect(Math.max(...counts.values()) - Math.min(...counts.values())).toBeLessThanOrEqual(20);
    }
  });

  test("abandon aborted work, before and between slices", async () => {
    const { slices, work } = setup();
    const log: string[] = [];
    const controller = new AbortController();
    const left = slices.begin(work("left", 1000, log), controller.signal);
    const other = slices.begin(work("other", 30));
    slices.run();
    controller.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    const { length } = log;
    while (slices.hasWork) slices.run();
    expect(log).toHaveLength(length);
    await expect(other).resolves.toBe("other");
    await expect(slices.begin(work("late", 3), controller.signal)).rejects.toThrow("enough");
  });

  test("reject only the promise of work that fails", async () => {
    const { slices, work } = setup();
    const failing = slices.begin(
      (function* () {
        yield* work("a", 30);
        throw new RangeError("no");
      })(),
    );
    const other = slices.begin(work("other", 60));
    const failed = expect(failing).rejects.toThrow(RangeError);
    while (slices.hasWork) slices.run();
    await failed;
    await expect(other).resolves.toBe("other");
  });
});
