// When places are given back: what is said of it beforehand, against an engine that is played through token by token.

import { refineCostModel, type CostModel } from "@readme-moe/core";
import * as fc from "../support/fast-check.ts";
import { describe, expect, test } from "vitest";
import {
  expectedTokensLeft,
  forecastQueue,
  sharesOf,
  type QueuedWork,
} from "../../packages/express/src/edge/admission/forecast.ts";
import {
  msPerRelease,
  NO_RETURN_TIMES,
  promiseReturn,
  recordRelease,
} from "../../packages/express/src/edge/admission/return-times.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const NUM_EXPERTS = 8;
const SEATS = 8;
const PLACES = 24;
const COST: CostModel = { fixedMs: 6, msPerToken: 0.4, msPerExpert: 5, msPerCachedToken: 0.001, loadMsPerByte: 0 };

interface Simulated {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
  done: number;
  isRunning: boolean;
}

/** Requests of the time's subject, most of whose tokens go to its expert; or of any subject. */
function arrival(random: () => number, subject: number | undefined): Simulated {
  const home = subject ?? randomInteger(random, NUM_EXPERTS);
  const expert = (): number => (random() < 0.9 ? home : randomInteger(random, NUM_EXPERTS));
  const tokens = (most: number): number[] => Array.from({ length: 8 + randomInteger(random, most) }, expert);
  return { prompt: tokens(50), answer: tokens(50), done: 0, isRunning: false };
}

function workOf({ prompt, answer, done }: Simulated, knowsRoutes: boolean): QueuedWork {
  const counts = Array.from({ length: NUM_EXPERTS }, (_, expert) => prompt.filter((one) => one === expert).length);
  const hasBegun = done > 0;
  return {
    choices: 1,
    promptTokens: hasBegun ? 0 : prompt.length,
    contextTokens: hasBegun ? prompt.length + done : 0,
    tokensLeft: answer.length - done,
    shares: knowsRoutes ? sharesOf(counts) : [],
  };
}

/**
 * An engine whose places are all taken, all the time; the subject changes now and then. Asks each way of telling when
 * the n-th place is given back.
 * @returns mean of how far each was off, in ms
 */
function meanErrors(
  seed: number,
  nth: number,
): { readonly routed: number; readonly blind: number; readonly past: number } {
  const random = seededRandom(seed);
  let [routedCost, blindCost] = [COST, COST];
  let times = NO_RETURN_TIMES;
  let subject: number | undefined;
  const places = Array.from({ length: PLACES }, () => arrival(random, subject));
  const asked: { readonly atMs: number; readonly place: number; readonly said: readonly number[] }[] = [];
  const returnsMs: number[] = [];
  let nowMs = 0;
  for (let step = 0; step < 2500; step++) {
    if (step % 150 === 0) subject = step % 300 === 0 ? randomInteger(random, NUM_EXPERTS) : undefined;
    const running = places.slice(0, SEATS);
    const tokens = running.flatMap((one) => (one.done === 0 ? one.prompt : [one.answer[one.done] as number]));
    const work = { tokens: tokens.length, distinctExperts: new Set(tokens).size, cachedTokens: 0, missingBytes: 0 };
    for (const { prompt, done } of running) work.cachedTokens += done > 0 ? prompt.length + done : 0;
    const exactMs = COST.fixedMs + COST.msPerToken * work.tokens + COST.msPerExpert * work.distinctExperts;
    const durationMs = (exactMs + COST.msPerCachedToken * work.cachedTokens) * (0.9 + 0.2 * random());
    nowMs += durationMs;
    routedCost = refineCostModel(routedCost, { work, durationMs });
    blindCost = refineCostModel(blindCost, { work: { ...work, distinctExperts: 0 }, durationMs });
    for (const one of running) {
      if (++one.done < one.answer.length) continue;
      places.splice(places.indexOf(one), 1);
      places.push(arrival(random, subject));
      times = recordRelease(times, nowMs);
      returnsMs.push(nowMs);
    }
    if (step < 300 || step % 7 > 0) continue;
    const say = (knowsRoutes: boolean, cost: CostModel): number =>
      forecastQueue(
        places.map((one) => workOf(one, knowsRoutes)),
        cost,
        SEATS,
      ).returnsMs[nth - 1] as number;
    const blind = forecastQueue(
      places.map((one) => workOf(one, false)),
      { ...blindCost, msPerExpert: 0 },
      SEATS,
    );
    const said = [say(true, routedCost), blind.returnsMs[nth - 1] as number, nth * msPerRelease(times, nowMs)];
    asked.push({ atMs: nowMs, place: returnsMs.length + nth - 1, said });
  }
  const known = asked.filter(({ place }) => place < returnsMs.length);
  const [routed = NaN, blind = NaN, past = NaN] = [0, 1, 2].map((way) => {
    const errors = known.map(({ atMs, place, said }) => {
      return Math.abs(atMs + (said[way] as number) - (returnsMs[place] as number));
    });
    return errors.reduce((sum, error) => sum + error, 0) / errors.length;
  });
  return { routed, blind, past };
}

describe("a forecast", () => {
  test.each([1, 8, 20])("that knows routes is nearer to when place %i is given back", (nth) => {
    for (const seed of [1, 2, 3]) {
      const errors = meanErrors(seed, nth);
      // Nearer by far, on all kinds of times together.
      expect(errors.routed).toBeLessThan(0.6 * errors.blind);
      expect(errors.routed).toBeLessThan(0.6 * errors.past);
    }
  });

  const cost: CostModel = { fixedMs: 10, msPerToken: 1, msPerExpert: 100, msPerCachedToken: 0, loadMsPerByte: 0 };
  test("counts an expert once for all who need it", () => {
    const [a, b] = [
      [1, 0],
      [0, 1],
    ];
    expect(forecastQueue([queued(3, a), queued(3, a)], cost, 2).returnsMs).toEqual([3 * 112, 3 * 112]);
    expect(forecastQueue([queued(3, a), queued(3, b)], cost, 2).returnsMs).toEqual([3 * 212, 3 * 212]);
    // Each of two tokens goes to either, so one of them has none in half of the steps.
    expect(forecastQueue([queued(1, [0.5, 0.5], 0, 2)], cost, 2).returnsMs).toEqual([10 + 2 + 150]);
  });

  test("lets those who wait run when others have ended, with their prompts first", () => {
    const { returnsMs, turnMs } = forecastQueue([queued(2, [1]), queued(5, [1]), queued(1, [1], 7)], cost, 2);
    // Two steps of two; a prompt of 7 tokens; a step of two, with which the third ends; two steps of one.
    const [first, third] = [2 * 112, 2 * 112 + 107 + 112];
    expect(returnsMs).toEqual([first, third, third + 2 * 111]);
    expect(turnMs).toBe(third);
    expect(forecastQueue([], cost, 2)).toEqual({ returnsMs: [], turnMs: 0 });
  });

  test("takes those without routes for the mean of the others, and all for one expert where nobody has any", () => {
    expect(forecastQueue([queued(1, [1, 0]), queued(1, [])], cost, 2).returnsMs).toEqual([112, 112]);
    expect(forecastQueue([queued(1, []), queued(1, [])], cost, 2).returnsMs).toEqual([112, 112]);
  });

  test("says something of every request, in order, and of a larger queue never less", () => {
    const one = fc.record({
      choices: fc.integer({ min: 1, max: 5 }),
      promptTokens: fc.nat(50),
      contextTokens: fc.nat(50),
      tokensLeft: fc.integer({ min: 1, max: 50 }),
      shares: fc.constantFrom([], [1], [0, 1], [0.5, 0.5], [0.2, 0.3, 0.5]),
    });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 40 }), fc.integer({ min: 1, max: 8 }), (queue, maxNumSeqs) => {
        const { returnsMs, turnMs } = forecastQueue(queue, COST, maxNumSeqs);
        expect(returnsMs).toHaveLength(queue.length);
        expect(returnsMs.every(Number.isFinite) && turnMs >= 0).toBe(true);
        expect(returnsMs).toEqual(returnsMs.toSorted((a, b) => a - b));
        const more = [...queue, queued(9, [], 3)];
        expect(forecastQueue(more, COST, maxNumSeqs).turnMs).toBeGreaterThanOrEqual(turnMs);
      }),
    );
  });
});

test("an answer is expected to be as long as others, never longer than it may be, and not to end for being long", () => {
  expect(expectedTokensLeft(0, 100, undefined)).toBe(100);
  expect(expectedTokensLeft(4, 100, 20)).toBe(16);
  expect(expectedTokensLeft(4, 10, 20)).toBe(6);
  expect(expectedTokensLeft(60, 100, 20)).toBe(10);
  expect(expectedTokensLeft(10, 10, 20)).toBe(1);
});

describe("a promise by a forecast", () => {
  test("gives each the next place that comes back, also of those that come together, and guesses further ones", () => {
    const ask = turned([100, 250, 250, 400]);
    const [first, second, third, ...others] = waits([ask, ask, ask, ask, ask, ask]);
    expect([first, second]).toEqual([100, 251]);
    expect(third).toBe(251);
    expect(others).toEqual([401, 501, 601]);
    expect(waits([turned([100, 200, 300], 0, 3)])).toEqual([301]);
  });

  test("calls nobody back while a turn would come too late", () => {
    expect(waits([turned([100], 9000)])).toEqual([8000]);
  });

  test("is an integer from 1 to 60,000, and no earlier than the one before", () => {
    const asks = fc.array(
      fc.tuple(fc.array(fc.nat(200_000), { maxLength: 30 }), fc.nat(90_000), fc.integer({ min: 1, max: 50 })),
      {
        minLength: 1,
        maxLength: 20,
      },
    );
    fc.assert(
      fc.property(asks, (all) => {
        let times = NO_RETURN_TIMES;
        for (const [returns, turnMs, places] of all) {
          const sorted = returns.toSorted((a, b) => a - b);
          const before = times.promisedUntilMs;
          const promised = promiseReturn(times, turned(sorted, turnMs, places), 70_000);
          expect(Number.isInteger(promised.waitMs) && promised.waitMs >= 1 && promised.waitMs <= 60_000).toBe(true);
          expect(promised.times.promisedUntilMs).toBeGreaterThanOrEqual(Math.min(before, 130_000));
          ({ times } = promised);
        }
      }),
    );
  });
});

/** Of one request, for forecasts. */
function queued(tokensLeft: number, shares: readonly number[], promptTokens = 0, choices = 1): QueuedWork {
  return { choices, promptTokens, contextTokens: 0, tokensLeft, shares };
}

/** One who is turned away while so much is in. */
function turned(returnsMs: readonly number[], turnMs = 0, places = 1): Parameters<typeof promiseReturn>[1] {
  return { places, numWaiting: 3, maxQueueMs: 1000, forecast: { returnsMs, turnMs } };
}

/** What those are told who are turned away one after the other, at the same time. */
function waits(asks: readonly Parameters<typeof promiseReturn>[1][]): readonly number[] {
  let times = NO_RETURN_TIMES;
  return asks.map((ask) => {
    const promised = promiseReturn(times, ask, 5000);
    ({ times } = promised);
    return promised.waitMs;
  });
}
