// The log of repeated messages: none is lost, and each is logged at most once in a window.

import { describe, expect, test } from "vitest";
import { causesText, kindOf } from "../../packages/readme-moe/src/serving/event-log.ts";
import { Repeats } from "../../packages/readme-moe/src/serving/repeats.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const WINDOW_MS = 60_000;

describe("messages that repeat", () => {
  test("a thousand equal messages are logged once, and counted at the end of the window", () => {
    const repeats = new Repeats<number>(WINDOW_MS);
    const said = Array.from({ length: 1000 }, (_, at) => repeats.take("a", at, at)).filter(Boolean);
    expect(said).toHaveLength(1);
    expect(repeats.due(WINDOW_MS - 1)).toEqual([]);
    expect(repeats.nextMs()).toBe(WINDOW_MS);
    expect(repeats.due(WINDOW_MS)).toEqual([{ count: 999, windowMs: WINDOW_MS, last: 999 }]);
    // After a quiet window the next message is logged again.
    expect(repeats.due(2 * WINDOW_MS)).toEqual([]);
    expect(repeats.nextMs()).toBeUndefined();
    expect(repeats.take("a", 1000, 2 * WINDOW_MS)).toBe(true);
  });

  test.each([1, 2, 3, 4])("each of many random messages is logged or counted once (seed %i)", (seed) => {
    const random = seededRandom(seed);
    const repeats = new Repeats<number>(WINDOW_MS);
    const kinds = seed === 4 ? 500 : 5;
    let [nowMs, said, counted, reports] = [0, 0, 0, 0];
    const tellDue = (atMs: number): void => {
      for (const { count } of repeats.due(atMs)) {
        counted += count;
        reports++;
      }
    };
    const numMessages = 5000;
    for (let message = 0; message < numMessages; message++) {
      nowMs += randomInteger(random, 200);
      tellDue(nowMs);
      if (repeats.take(`${randomInteger(random, kinds)}`, message, nowMs)) said++;
    }
    tellDue(Infinity);
    expect(said + counted).toBe(numMessages);
    const windows = Math.ceil(nowMs / WINDOW_MS) + 1;
    expect(said + reports).toBeLessThanOrEqual(2 * windows * Math.min(kinds, 65));
  });
});

const link = (message: string, code = "ERR_X") => [{ name: "E", code, message }];

describe("the text of a failure", () => {
  test("has each cause that is not quoted before, with codes, in one line", () => {
    const causes = [
      { name: "ReadMeError", code: "ERR_FILE_UNREADABLE", message: "w.bin: cannot be read: 0 of 5 bytes\nare there" },
      { name: "Error", message: "0 of 5 bytes\nare there" },
      { name: "Error", code: "EIO", message: "EIO: i/o error" },
    ];
    expect(causesText(causes)).toBe(
      "w.bin: cannot be read: 0 of 5 bytes are there (ERR_FILE_UNREADABLE); caused by: EIO: i/o error (EIO)",
    );
    expect(causesText([{ name: "TypeError", message: "" }])).toBe("TypeError");
    expect(causesText([])).toBe("no reason was given");
  });

  test("is of one kind with any numbers, and of another kind for another model, status or code", () => {
    expect(kindOf(link("layer 1 of expert 20"), "m", 500)).toBe(kindOf(link("layer 12 of expert 3"), "m", 500));
    const kinds = [
      kindOf(link("a"), "m", 500),
      kindOf(link("b"), "m", 500),
      kindOf(link("a", "ERR_Y"), "m", 500),
      kindOf(link("a"), "n", 500),
      kindOf(link("a"), "m", 503),
    ];
    expect(new Set(kinds).size).toBe(kinds.length);
  });
});
