// Ids of a stream's events: what follows any of them, and only in the same stream.

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { EventNumbering, readEventId } from "../../packages/express/src/http/reply.ts";
import { partIds } from "../../packages/express/src/api/chat.ts";
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

/** A stream, and how far a client has it: one that reconnects begins again at any event that it got. */
interface ResumedStream {
  readonly about: typeof ABOUT;
  /** Hash of the events so far, by their number. */
  readonly checks: string[];
  readonly texts: string[];
  numbering: EventNumbering;
  /** Events that the numbering has taken, and those that the client had when it connected. */
  numTaken: number;
  numKnown: number;
}

function newStream(answerId: string): ResumedStream {
  const about = { ...ABOUT, answerId };
  return { about, checks: [""], texts: [], numbering: new EventNumbering(about), numTaken: 0, numKnown: 0 };
}

const idOf = ({ about, checks }: ResumedStream, at: number): string =>
  `${about.answerId}:${about.created}:${at}:${checks[at]}`;

test("two streams that are cut and go on many times are numbered as a plain list is", () => {
  const move = fc.record({
    kind: fc.constantFrom("take", "take", "take", "resume", "restart", "stray"),
    which: fc.nat(1),
    count: fc.nat(3),
    // Streams are often equal, since their texts are few.
    texts: fc.array(fc.constantFrom("", "a", "b"), { minLength: 3, maxLength: 3 }),
  });
  fc.assert(
    fc.property(fc.array(move, { maxLength: 30, size: "max" }), fc.boolean(), (moves, isSameAnswer) => {
      const streams = [newStream("chatcmpl-1"), newStream(isSameAnswer ? "chatcmpl-1" : "chatcmpl-2")] as const;
      for (const { kind, which, count, texts } of moves) {
        const stream = streams[which] as ResumedStream;
        const other = streams[1 - which] as ResumedStream;
        if (kind === "take") {
          const from = stream.numTaken;
          stream.numTaken += count;
          for (const text of texts.slice(0, Math.max(0, stream.numTaken - stream.texts.length))) {
            stream.texts.push(text);
            const hash = createHash("sha256").update(`${stream.checks.at(-1)}data: ${text}\n\n`);
            stream.checks.push(hash.digest("hex").slice(0, 16));
          }
          const events = stream.texts.slice(from, stream.numTaken).map((data) => ({ data }));
          const sent = events.map((event, index) => ({ ...event, id: idOf(stream, from + index + 1) }));
          expect(stream.numbering.take(events)).toStrictEqual(sent.slice(Math.max(0, stream.numKnown - from)));
        } else if (kind === "stray") {
          // A place of the other stream is one of this stream only where all events up to it are equal.
          const at = Math.min(count, other.checks.length - 1, stream.checks.length - 1);
          if (at === 0) continue;
          const strayed = new EventNumbering(stream.about, readEventId(idOf(other, at)));
          const events = stream.texts.slice(0, at).map((data) => ({ data }));
          const isEqual = events.every(({ data }, index) => data === other.texts[index]);
          if (isEqual) expect(strayed.take(events)).toStrictEqual([]);
          else expect(() => strayed.take(events)).toThrow(ApiError);
        } else {
          const most = stream.checks.length - 1;
          stream.numKnown = kind === "restart" ? 0 : Math.max(0, most - count);
          stream.numTaken = 0;
          const place = stream.numKnown > 0 ? readEventId(idOf(stream, stream.numKnown)) : undefined;
          stream.numbering = new EventNumbering(stream.about, place);
        }
        for (const { numbering, numTaken, numKnown } of streams) {
          expect(numbering.isReplaying).toBe(numTaken < numKnown);
        }
      }
    }),
    { numRuns: 100 },
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
