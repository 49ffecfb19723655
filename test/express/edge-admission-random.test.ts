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
  hasBegun: boolean;
  readonly client: AbortController;
}

interface TestLoad {
  readonly tokens: number;
  readonly bytes: number;
}

/** Limits by the rules of the documentation: the share of a client is rounded up. */
function fitsWithin(
  { maxRequests = 0, maxTokens = 0, maxBytes = 0 }: AdmissionOptions,
  share: number,
  others: readonly TestLoad[],
  wanted: TestLoad,
): boolean {
  const all = [...others, wanted];
  const sum = (of: (one: TestLoad) => number): number => all.reduce((total, one) => total + of(one), 0);
  return (
    others.length === 0 ||
    (all.length <= Math.ceil(maxRequests * share) &&
      sum(({ tokens }) => tokens) <= Math.ceil(maxTokens * share) &&
      sum(({ bytes }) => bytes) <= Math.ceil(maxBytes * share))
  );
}

/** Returns whether a call is refused for a reason that clients are told. */
function isRefused(call: () => unknown): boolean {
  try {
    call();
    return false;
  } catch (error) {
    if (error instanceof ApiError) return true;
    throw error;
  }
}

type Step = readonly [
  name: "enter" | "correct" | "read" | "start" | "release" | "abort" | "wait",
  which: number,
  size: number,
];

test("loads match an independent count, stay within limits, and are zero in the end", () => {
  const step = fc.tuple(
    fc.constantFrom("enter", "enter", "correct", "read", "start", "release", "abort", "wait"),
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
    fc.property(options, fc.array(step, { maxLength: 80, size: "max" }), (limits, steps) => {
      vi.clearAllTimers();
      const events = new ReadMeEmitter();
      const counted = { admitted: 0, released: 0 };
      events.on("request:admitted", () => void counted.admitted++);
      events.on("request:released", () => void counted.released++);
      const admission = new Admission({ ...limits, events });
      const { maxTokens = 0, maxBytes = 0, maxRequests = 0, maxRequestsPerKey = 0 } = limits;
      const places = new Map<Ticket, TestPlace>();
      const fits = (all: readonly TestPlace[], size: number): boolean =>
        fitsWithin(limits, 1, all, { tokens: size + 5, bytes: size });
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
            const below = [...places].filter(([, one]) => !one.hasBegun && one.priority < about.priority).toReversed();
            below.sort(([, one], [, other]) => one.priority - other.priority);
            while (!fits([...places.values()], size)) {
              const [gone] = below.shift() ?? [];
              if (!gone) throw new Error("Expected a refusal");
              expect(gone.signal.aborted).toBe(true);
              places.delete(gone);
            }
            const { priority, key = "" } = about;
            places.set(entered, { tokens: size + 5, bytes: size, key, priority, hasBegun: false, client });
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
          if (name === "read" || name === "start") {
            if (name === "read") ticket.reading();
            else ticket.started();
            place.hasBegun = true;
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
          waiting: all.filter(({ hasBegun }) => !hasBegun).length,
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
    { numRuns: 100 },
  );
});

test("refuses early, and while bodies arrive, by plain counts of all requests and of each client", () => {
  const step = fc.tuple(fc.constantFrom("enter", "arrive", "release", "stop"), fc.nat(1000), fc.nat(60));
  const options = fc.record({
    maxRequests: fc.integer({ min: 1, max: 8 }),
    maxTokens: fc.integer({ min: 1, max: 400 }),
    maxBytes: fc.integer({ min: 1, max: 200 }),
    maxRequestsPerKey: fc.integer({ min: 1, max: 4 }),
    maxClientShare: fc.constantFrom(0.01, 0.3, 0.5, 0.875, 1),
    displaceWaiting: fc.boolean(),
  });
  fc.assert(
    fc.property(options, fc.array(step, { maxLength: 80, size: "max" }), (limits, steps) => {
      vi.clearAllTimers();
      const { maxRequestsPerKey, maxClientShare, displaceWaiting } = limits;
      const admission = new Admission(limits);
      const places = new Map<() => void, TestLoad & { readonly client: string | undefined }>();
      const arriving = new Map<() => void, TestLoad & { readonly client: string | undefined }>();
      for (const [name, which, bytes] of steps) {
        // A third client has neither a key nor a share.
        const client = [undefined, "a", "b"][which % 3];
        const about = { bytes, key: client, client, model: undefined };
        const fits = (held: typeof places, wanted: TestLoad): readonly [all: boolean, ofClient: boolean] => {
          const all = [...held.values()];
          const own = all.filter((one) => one.client === client);
          return [
            fitsWithin(limits, 1, all, wanted),
            client === undefined || fitsWithin(limits, maxClientShare, own, wanted),
          ];
        };
        const numOfKey = [...places.values()].filter((one) => client !== undefined && one.client === client).length;
        if (name === "enter") {
          // A client's request takes no more tokens than its share, whatever it may need.
          const most = client === undefined ? Infinity : Math.ceil(limits.maxTokens * maxClientShare);
          const wanted = { tokens: Math.min(most, bytes + 5), bytes };
          const [early, earlyOfClient] = fits(places, { tokens: Math.min(most, bytes), bytes });
          const hasPlace = numOfKey < maxRequestsPerKey && earlyOfClient;
          expect(isRefused(() => admission.refuseIfFull(about))).toBe(!hasPlace || !(early || displaceWaiting));
          const [all, ofClient] = fits(places, wanted);
          const isWelcome = bytes <= limits.maxBytes && numOfKey < maxRequestsPerKey && all && ofClient;
          const isOut = isRefused(() => {
            const ticket = admission.enter(entrant({ ...about, priority: 0 }));
            places.set(() => ticket.release(), { client, ...wanted });
          });
          expect(isOut).toBe(!isWelcome);
        } else if (name === "arrive") {
          const [all] = fits(arriving, { tokens: 0, bytes });
          const others = [...arriving.values()].filter((one) => one.client !== client);
          const own = [...arriving.values()].filter((one) => one.client === client);
          const left = {
            ...limits,
            maxRequests: limits.maxRequests - others.length,
            maxBytes: limits.maxBytes - others.reduce((sum, one) => sum + one.bytes, 0),
          };
          const ofClient = client === undefined || fitsWithin(left, maxClientShare, own, { tokens: 0, bytes });
          const isOut = isRefused(() => arriving.set(admission.arrive(about), { client, tokens: 0, bytes }));
          expect(isOut).toBe(!all || !ofClient);
        } else {
          const held = name === "release" ? places : arriving;
          const end = [...held.keys()][which % Math.max(1, held.size)];
          end?.();
          end?.();
          if (end) held.delete(end);
        }
        const counted = [...arriving.values()].reduce((sum, one) => sum + one.bytes, 0);
        expect(admission.stats.arriving).toEqual({ requests: arriving.size, bytes: counted });
        expect(admission.stats.requests).toBe(places.size);
      }
      for (const end of [...places.keys(), ...arriving.keys()]) end();
      expect(admission.stats).toMatchObject({ ...NOTHING, arriving: { requests: 0, bytes: 0 } });
      expect(vi.getTimerCount()).toBe(0);
    }),
    { numRuns: 200 },
  );
});
