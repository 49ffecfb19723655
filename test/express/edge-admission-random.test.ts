// Loads of admission against an independent count, for random requests.

import { ReadMeEmitter } from "@readme-moe/core";
import { Admission, ApiError, type AdmissionOptions, type Ticket } from "@readme-moe/express";
import * as fc from "../support/fast-check.ts";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { entrant, loads, NOTHING } from "../support/admission.ts";

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

interface TestPlace {
  tokens: number;
  readonly bytes: number;
  readonly key: string;
  readonly priority: number;
  isStarted: boolean;
  readonly client: AbortController;
}

type Step = readonly [name: "enter" | "correct" | "start" | "release" | "abort" | "wait", which: number, size: number];

test("loads match an independent count, stay within limits, and are zero in the end", () => {
  const step = fc.tuple(
    fc.constantFrom("enter", "enter", "correct", "start", "release", "abort", "wait"),
    fc.nat(1000),
    fc.nat(60),
  ) as fc.Arbitrary<Step>;
  const options = fc.record({
    maxRequests: fc.integer({ min: 1, max: 8 }),
    maxTokens: fc.integer({ min: 1, max: 400 }),
    maxBytes: fc.integer({ min: 1, max: 200 }),
    maxRequestsPerKey: fc.integer({ min: 1, max: 4 }),
    maxQueueMs: fc.integer({ min: 1, max: 100 }),
    displaceWaiting: fc.boolean(),
  }) as fc.Arbitrary<AdmissionOptions>;
  fc.assert(
    fc.property(options, fc.array(step, { maxLength: 80 }), (limits, steps) => {
      vi.clearAllTimers();
      const events = new ReadMeEmitter();
      const counted = { admitted: 0, released: 0 };
      events.on("request:admitted", () => void counted.admitted++);
      events.on("request:released", () => void counted.released++);
      const admission = new Admission({ ...limits, events });
      const { maxTokens = 0, maxBytes = 0, maxRequests = 0, maxRequestsPerKey = 0 } = limits;
      const places = new Map<Ticket, TestPlace>();
      const fits = (all: readonly TestPlace[], size: number): boolean =>
        all.length === 0 ||
        (all.length < maxRequests &&
          all.reduce((sum, { tokens }) => sum + tokens, size + 5) <= maxTokens &&
          all.reduce((sum, { bytes }) => sum + bytes, size) <= maxBytes);
      let hasCorrectedUp = false;
      for (const [name, which, size] of steps) {
        const [ticket, place] = [...places][which % Math.max(1, places.size)] ?? [];
        if (name === "enter") {
          const client = new AbortController();
          const about = entrant({ bytes: size, key: `k${which % 3}`, priority: which % 4, signal: client.signal });
          const before = loads(admission);
          try {
            const entered = admission.enter(about);
            // The displaced requests by the rule: lowest priority first, then the newest, and no more than needed.
            const below = [...places].filter(([, one]) => !one.isStarted && one.priority < about.priority).toReversed();
            below.sort(([, one], [, other]) => one.priority - other.priority);
            while (!fits([...places.values()], size)) {
              const [gone] = below.shift() ?? [];
              if (!gone) throw new Error("Expected a refusal");
              expect(gone.signal.aborted).toBe(true);
              places.delete(gone);
            }
            const { priority, key = "" } = about;
            places.set(entered, { tokens: size + 5, bytes: size, key, priority, isStarted: false, client });
          } catch (error) {
            expect(error).toBeInstanceOf(ApiError);
            expect(loads(admission)).toEqual(before);
            const all = [...places.values()];
            const ofKey = all.filter(({ key }) => key === about.key).length;
            expect(size <= maxBytes && ofKey < maxRequestsPerKey && fits(all, size)).toBe(false);
          }
        } else if (name === "wait") {
          vi.advanceTimersByTime(size);
        } else if (ticket && place) {
          if (name === "correct") {
            ticket.correct(size);
            hasCorrectedUp ||= size + 5 > place.tokens;
            place.tokens = size + 5;
          }
          if (name === "start") {
            ticket.started();
            place.isStarted = true;
          }
          if (name === "abort") {
            place.client.abort();
            expect(ticket.signal.aborted).toBe(true);
          }
          if (name === "release") {
            ticket.release();
            places.delete(ticket);
          }
        }
        const all = [...places.values()];
        const sum = (of: (place: (typeof all)[number]) => number): number =>
          all.reduce((total, one) => total + of(one), 0);
        const expected = {
          requests: all.length,
          waiting: all.filter(({ isStarted }) => !isStarted).length,
          tokens: sum(({ tokens }) => tokens),
          bytes: sum(({ bytes }) => bytes),
        };
        expect(loads(admission)).toEqual(expected);
        expect(expected.requests).toBeLessThanOrEqual(maxRequests);
        expect(expected.bytes).toBeLessThanOrEqual(maxBytes);
        if (!hasCorrectedUp && all.length > 1) expect(expected.tokens).toBeLessThanOrEqual(maxTokens);
        for (const key of ["k0", "k1", "k2"]) {
          expect(all.filter((one) => one.key === key).length).toBeLessThanOrEqual(maxRequestsPerKey);
        }
      }
      for (const ticket of places.keys()) ticket.release();
      expect(loads(admission)).toEqual(NOTHING);
      expect(counted.released).toBe(counted.admitted);
      expect(vi.getTimerCount()).toBe(0);
    }),
    { numRuns: 300 },
  );
});
