import { describe, expect, test } from "vitest";
import { Turns } from "../../packages/engine/src/worker/turns.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** A clock that each piece of work advances. */
function setup(): { turns: Turns; work: (name: string, pieces: number, log?: string[]) => Generator<void, string> } {
  let nowMs = 0;
  const turns = new Turns(() => nowMs);
  return {
    turns,
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

describe("pieces of work", () => {
  test("are done at once if they are short", async () => {
    const { turns, work } = setup();
    const done = turns.begin(work("short", 1));
    expect(turns.hasWork).toBe(false);
    await expect(done).resolves.toBe("short");
  });

  test("take turns, so that a short one ends after a few turns of a long one", async () => {
    const { turns, work } = setup();
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
    const done = all.map(([name, pieces]) => turns.begin(ending(name, pieces)));
    let rounds = 0;
    for (; turns.hasWork; rounds++) turns.run();
    await Promise.all(done);
    expect(ended).toEqual(["short", "other", "long"]);
    // 1320 pieces of half a millisecond, ten of them in each turn of 5 ms.
    expect(rounds).toBeGreaterThanOrEqual(125);
    expect(rounds).toBeLessThan(140);
  });

  test("share time equally while work is added and ends", async () => {
    const random = seededRandom(4);
    const { turns, work } = setup();
    const log: string[] = [];
    const names = Array.from({ length: 8 }, (_, index) => `work ${index}`);
    const lengths = names.map(() => 100 + randomInteger(random, 400));
    const done = names.map((name, index) => turns.begin(work(name, lengths[index] ?? 0, log)));
    while (turns.hasWork) turns.run();
    await Promise.all(done);
    // While all have work, none is more than two turns ahead of another.
    const counts = new Map(names.map((name) => [name, 0]));
    const shortest = Math.min(...lengths);
    for (const name of log) {
      counts.set(name, (counts.get(name) ?? 0) + 1);
      if (Math.max(...counts.values()) >= shortest) break;
      expect(Math.max(...counts.values()) - Math.min(...counts.values())).toBeLessThanOrEqual(20);
    }
  });

  test("stop when they are aborted, before and between turns", async () => {
    const { turns, work } = setup();
    const log: string[] = [];
    const controller = new AbortController();
    const left = turns.begin(work("left", 1000, log), controller.signal);
    const other = turns.begin(work("other", 30));
    turns.run();
    controller.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    const { length } = log;
    while (turns.hasWork) turns.run();
    expect(log).toHaveLength(length);
    await expect(other).resolves.toBe("other");
    await expect(turns.begin(work("late", 3), controller.signal)).rejects.toThrow("enough");
  });

  test("report a failure to their own caller alone", async () => {
    const { turns, work } = setup();
    const failing = turns.begin(
      (function* () {
        yield* work("a", 30);
        throw new RangeError("no");
      })(),
    );
    const other = turns.begin(work("other", 60));
    const failed = expect(failing).rejects.toThrow(RangeError);
    while (turns.hasWork) turns.run();
    await failed;
    await expect(other).resolves.toBe("other");
  });
});
