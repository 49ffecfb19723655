// Ids of a stream's events: what follows any of them, and only in the same stream.

import { expect, test } from "vitest";
import { EventNumbering, readEventId } from "../../packages/express/src/api/event-ids.ts";
import { partIds } from "../../packages/express/src/api/part-ids.ts";
import { ApiError } from "../../packages/express/src/http/errors.ts";
import * as fc from "../support/fast-check.ts";

const ABOUT = { answerId: "chatcmpl-1", created: 1_764_350_000 };

/** Batches of events, as pieces of an answer give them. */
const batches = fc.array(fc.array(fc.record({ data: fc.string() }), { maxLength: 3 }), { minLength: 1, maxLength: 12 });

test("a stream goes on behind any of its events with exactly the rest, however its pieces are cut", () => {
  fc.assert(
    fc.property(batches, fc.nat(), (pieces, pick) => {
      const first = new EventNumbering(ABOUT);
      const sent = pieces.flatMap((piece) => first.take(piece));
      fc.pre(sent.length > 0);
      const at = pick % sent.length;
      const place = readEventId(sent[at]?.id);
      expect(place).toMatchObject({ ...ABOUT, numEvents: at + 1 });
      const second = new EventNumbering(ABOUT, place);
      const rest = second.take(pieces.flat());
      expect(rest).toEqual(sent.slice(at + 1));
      expect(second.isReplaying).toBe(false);
    }),
  );
});

test("a stream that began otherwise does not go on", () => {
  fc.assert(
    fc.property(batches, fc.nat(), fc.string({ minLength: 1 }), (pieces, pick, more) => {
      const events = pieces.flat();
      fc.pre(events.length > 0);
      const sent = new EventNumbering(ABOUT).take(events);
      const changed = events.map((event, index) =>
        index === pick % events.length ? { data: `${event.data}${more}` } : event,
      );
      const place = readEventId(sent.at(-1)?.id);
      expect(() => new EventNumbering(ABOUT, place).take(changed)).toThrow(ApiError);
    }),
  );
});

test.each([
  "17",
  "a:1:0:0123456789abcdef",
  "a:1:1:0123456789abcde",
  "../a:1:1:0123456789abcdef",
  "a b:1:1:0123456789abcdef",
])("%j is the id of no event", (header) => {
  expect(() => readEventId(header)).toThrow(ApiError);
});

test("a request without the header begins a stream", () => {
  expect([readEventId(undefined), readEventId("")]).toEqual([undefined, undefined]);
});

test("the ids of an answer's parts follow from its own, and differ", () => {
  const [one, again, other] = [partIds("a"), partIds("a"), partIds("b")];
  const ids = [one("call", 24), one("call", 24), one("msg")];
  expect([again("call", 24), again("call", 24), again("msg")]).toEqual(ids);
  expect(ids[0]).toMatch(/^call_[0-9a-f]{24}$/);
  expect(new Set([...ids, other("call", 24), other("call", 24), other("msg")]).size).toBe(6);
});
