// The decisions of batches beside plain ones, over random cases.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { fewestOf, roomFor } from "../../../packages/express/src/batches/batches.ts";
import { answerLines, checkInput, findAnswers, readLines } from "../../../packages/express/src/batches/lines.ts";
import { agedBatches, displacedBatches } from "../../../packages/express/src/batches/options.ts";
import { nextLine, retryAfter } from "../../../packages/express/src/batches/run-batch.ts";
import { nextAct, statusOf } from "../../../packages/express/src/batches/store.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const range = (count: number): readonly number[] => Array.from({ length: count }, (_, index) => index);
const pick = <Item>(random: () => number, items: readonly Item[]): Item =>
  items[randomInteger(random, items.length)] as Item;
/** Makes a line of an input. */
const lineOf = (custom_id: string): string =>
  JSON.stringify({ custom_id, method: "POST", url: "/v1/completions", body: {} });

describe("lines", () => {
  test("are those between the ends of lines, with their places", async () => {
    const path = join(await temporaryFolder(), "lines");
    const random = seededRandom(3);
    for (let run = 0; run < 60; run++) {
      const parts = range(randomInteger(random, 40)).map(() =>
        pick(random, ["\n", "\n", "\r\n", "a", " ", "é", "b".repeat(70_000)]),
      );
      const text = parts.join("");
      await writeFile(path, text);
      const expected = text
        .split("\n")
        .map((line, index) => ({ line, number: index + 1 }))
        .filter(({ line }) => line.trim() !== "");
      const found = [];
      for await (const line of readLines(path, 60_000)) found.push(line);
      expect(found.map(({ number }) => number)).toEqual(expected.map(({ number }) => number));
      const bytes = Buffer.from(text);
      for (const [index, { offset, length, bytes: own, hasEnd }] of found.entries()) {
        const { line } = expected[index] as (typeof expected)[number];
        expect(bytes.subarray(offset, offset + length).toString()).toBe(line);
        expect(own?.toString()).toBe(length > 60_000 ? undefined : line);
        expect(hasEnd).toBe(bytes[offset + length] === 10);
      }
    }
  });

  test("without text are limited, too, and ids are told apart however long and damaged they are", async () => {
    const path = join(await temporaryFolder(), "lines");
    const check = async (text: string, maxRequests = 4): Promise<object> => {
      await writeFile(path, text);
      const limits = { endpoint: "/v1/completions", maxLineBytes: 4000, maxRequests } as const;
      const { lines, errors } = await checkInput(path, limits, new AbortController().signal);
      return { lines: lines.count, errors: errors.map(({ code, line }) => [code, line]) };
    };
    const [one, other] = [lineOf("a"), lineOf("b")];
    expect(await check(`\n\n${one}\n \r\n\n\n\n${other}`)).toEqual({ lines: 2, errors: [] });
    expect(await check(`\n\n${one}\n \r\n\n\n\n\n${other}`)).toEqual({ lines: 1, errors: [["too_many_lines", 9]] });
    expect(await check("\n".repeat(100_000))).toEqual({ lines: 0, errors: [["too_many_lines", 9]] });
    expect(await check(" ".repeat(5000))).toEqual({ lines: 1, errors: [["line_too_long", 1]] });
    const long = "é".repeat(511);
    const ids = [`${long}1`, `${long}2`, "\ud800", "\ud801", "\ufffd", "a", "A", "á", "a\u0301"];
    expect(await check(ids.map(lineOf).join("\n"), 9)).toEqual({ lines: 9, errors: [] });
    for (const id of ids) {
      const errors = [["duplicate_custom_id", 10]];
      expect(await check([...ids, id].map(lineOf).join("\n"), 10)).toEqual({ lines: 10, errors });
    }
  });

  test("of answers count once, the first of each request, unless they were cut off", async () => {
    const folder = await temporaryFolder();
    const random = seededRandom(4);
    for (let run = 0; run < 40; run++) {
      const expected = new Map<number, string>();
      const paths: string[] = [];
      for (let owner = 0; owner < 3; owner++) {
        const lines = range(randomInteger(random, 12)).map(() => {
          const index = randomInteger(random, 15);
          return { index, text: `${index} ${pick(random, ["o", "e"])} {"by":${owner},"index":${index}}\n` };
        });
        const path = join(folder, `${run}-${owner}`);
        paths.push(path);
        const cut = Math.min(lines.length, randomInteger(random, 2));
        const whole = lines.slice(0, lines.length - cut);
        const torn = lines
          .slice(lines.length - cut)
          .map(({ text }) => text.slice(0, randomInteger(random, text.length)));
        for (const { index, text } of whole) if (!expected.has(index)) expected.set(index, text);
        if (pick(random, [true, true, false]) || lines.length > 0) {
          await writeFile(path, [...whole.map(({ text }) => text), ...torn].join(""));
        }
      }
      const answers = await findAnswers(paths, 15);
      for (const kind of ["o", "e"] as const) {
        const chunks = [];
        for await (const chunk of answerLines(answers, kind)) chunks.push(chunk);
        const right = [...expected]
          .toSorted(([a], [b]) => a - b)
          .filter(([, text]) => text.includes(` ${kind} `))
          .map(([, text]) => text.replace(/^\d+ [oe] /, ""));
        expect(Buffer.concat(chunks).toString()).toBe(right.join(""));
      }
    }
  });
});

describe("the next request", () => {
  test("is the first of those with the fewest under way", () => {
    const random = seededRandom(5);
    for (let run = 0; run < 200; run++) {
      const counts = range(randomInteger(random, 7)).map(() => randomInteger(random, 4));
      const least = Math.min(...counts);
      const best = counts.length === 0 ? undefined : counts.indexOf(least);
      expect(fewestOf([...counts.keys()], (index) => counts[index]!)).toBe(best);
    }
  });

  test("is the first that was not tried, else the one that was refused first", () => {
    const taken = Uint8Array.of(1, 1, 0, 1, 0);
    const refused = new Set([3, 1]);
    expect(nextLine({ total: 5, taken, refused, from: 0 })).toBe(2);
    expect(nextLine({ total: 5, taken, refused, from: 3 })).toBe(4);
    expect(nextLine({ total: 4, taken, refused, from: 3 })).toBe(3);
    expect(nextLine({ total: 4, taken, refused: new Set(), from: 3 })).toBeUndefined();
  });

  test("begins while the engines have room", () => {
    const idle = { places: 16, running: 0, waiting: 0, admitted: 0, inFlight: 0 };
    expect(roomFor(idle, 0.5)).toBe(8);
    expect(roomFor({ ...idle, running: 3, inFlight: 3 }, 0.5)).toBe(5);
    expect(roomFor({ ...idle, running: 3, admitted: 4, inFlight: 3 }, 0.5)).toBe(1);
    expect(roomFor({ ...idle, waiting: 9 }, 0.5)).toBe(0);
    expect(roomFor({ ...idle, places: 0 }, 1)).toBe(0);
    expect(roomFor({ ...idle, places: 1 }, 0.5)).toBe(1);
    expect(roomFor({ ...idle, places: 1, admitted: 1 }, 0.5)).toBe(0);
  });

  test("runs again after a refusal that says nothing about it", () => {
    const reply = { status: 503, code: "server_overloaded", retryAfterMs: 20, failures: 1e6 };
    expect(retryAfter(reply)).toBe(20);
    expect(retryAfter({ ...reply, retryAfterMs: undefined })).toBe(1000);
    expect(retryAfter({ ...reply, retryAfterMs: 1e9 })).toBe(60_000);
    expect(retryAfter({ ...reply, status: 200, code: undefined })).toBeUndefined();
    expect(retryAfter({ ...reply, status: 400, code: "invalid_value" })).toBeUndefined();
    expect(range(4).map((failures) => retryAfter({ ...reply, code: "engine_failed", failures }))).toEqual([
      20,
      20,
      undefined,
      undefined,
    ]);
  });
});

test("the status follows from what is known", () => {
  const counts = { completed: 0, failed: 0 };
  const end = { status: "expired", at: 1, total: 1, completed: 0, failed: 1 } as const;
  expect(statusOf({})).toBe("validating");
  expect(statusOf({ progress: counts })).toBe("validating");
  expect(statusOf({ progress: { ...counts, total: 2 } })).toBe("in_progress");
  expect(statusOf({ progress: { ...counts, total: 2, finalizingAt: 3 } })).toBe("finalizing");
  expect(statusOf({ progress: { ...counts, total: 2 }, cancellingAt: 3 })).toBe("cancelling");
  expect(statusOf({ cancellingAt: 3, end })).toBe("expired");
  const progress = { expiresAt: 9, isCancelled: false, total: 2, answered: 1 };
  expect([nextAct(progress, 8), nextAct(progress, 9)]).toEqual(["run", "expire"]);
  expect(nextAct({ ...progress, answered: 2 }, 9)).toBe("complete");
  expect(nextAct({ ...progress, answered: 2, isCancelled: true }, 9)).toBe("cancel");
});

const batch = (id: string, createdAt: number, endedAt?: number): Parameters<typeof agedBatches>[0][number] => ({
  id,
  client: id.slice(0, 1),
  createdAt,
  endedAt,
});

test("ended batches leave for new ones: the client's oldest, then the oldest of all, and those that are too old", () => {
  const limits = { maxBatches: 4, maxClientShare: 0.5, maxAgeSeconds: 10 };
  expect(displacedBatches([batch("a1", 1)], "a", limits)).toEqual([]);
  expect(displacedBatches([batch("a1", 1), batch("a2", 2)], "a", limits)).toBeUndefined();
  expect(displacedBatches([batch("a1", 1), batch("a2", 2, 3)], "a", limits)).toEqual(["a2"]);
  const full = [batch("a1", 1), batch("a2", 2, 5), batch("b1", 3, 4), batch("c1", 4)];
  expect(displacedBatches(full, "d", limits)).toEqual(["a2"]);
  expect(
    displacedBatches(
      full.map(({ id }) => batch(id, 1)),
      "d",
      limits,
    ),
  ).toBeUndefined();
  expect(agedBatches(full, 15, limits)).toEqual(["a2", "b1"]);
});
