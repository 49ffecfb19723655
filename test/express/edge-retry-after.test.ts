// Clients that a full server refuses, and that come back when they are told to, in a simulation of a busy engine.

import { Admission, ApiError, type Ticket } from "@readme-moe/express";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { retryHeaders } from "../../packages/express/src/http/errors.ts";
import { entrant } from "../support/admission.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const SEATS = 8;
const PLACES = 24;
const STEPS = 4000;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

interface Running {
  readonly ticket: Ticket;
  readonly answerTokens: number;
  readonly expert: number;
  done: number;
}

interface Client {
  returnMs: number;
  numRefusals: number;
}

interface Outcome {
  /** Share of the refused clients that were admitted when they first came back. */
  readonly admittedAtFirst: number;
  /** Refusals of an admitted client, on average. */
  readonly meanRefusals: number;
  /** Share of the steps with an empty seat while clients were told to wait. */
  readonly idle: number;
}

/** @param load - arriving work in shares of what the engine can do, besides bursts of six requests */
function simulate(seed: number, load: number): Outcome {
  const random = seededRandom(seed);
  const admission = new Admission({ maxRequests: PLACES });
  const inside: Running[] = [];
  const away: Client[] = [];
  let [numReturned, numAdmittedAtFirst, numAdmitted, sumRefusals, idleSteps] = [0, 0, 0, 0, 0];
  const ask = (client: Client): void => {
    if (client.numRefusals === 1) numReturned++;
    try {
      const ticket = admission.enter(entrant());
      if (client.numRefusals === 1) numAdmittedAtFirst++;
      numAdmitted++;
      sumRefusals += client.numRefusals;
      inside.push({ ticket, answerTokens: 8 + randomInteger(random, 50), expert: randomInteger(random, 8), done: 0 });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const waitMs = Number(error.headers["retry-after-ms"]);
      away.push({ returnMs: performance.now() + waitMs, numRefusals: client.numRefusals + 1 });
    }
  };
  for (let step = 0; step < STEPS; step++) {
    const running = inside.slice(0, SEATS);
    if (running.length < SEATS && away.length > 0) idleSteps++;
    const tokens = running.reduce((sum, { done }) => sum + (done === 0 ? 30 : 1), 0);
    const distinctExperts = new Set(running.map(({ expert }) => expert)).size;
    vi.advanceTimersByTime((6 + 0.4 * tokens + 5 * distinctExperts) * (0.9 + 0.2 * random()));
    for (const one of running) {
      if (one.done++ === 0) one.ticket.started();
      if (one.done < one.answerTokens) continue;
      one.ticket.release();
      inside.splice(inside.indexOf(one), 1);
    }
    // A seat's request ends every 33 steps.
    const numArrivals = (random() < (load * SEATS) / 33 ? 1 : 0) + (random() < 0.01 ? 6 : 0);
    for (let index = 0; index < numArrivals; index++) ask({ returnMs: 0, numRefusals: 0 });
    const back = away.filter(({ returnMs }) => returnMs <= performance.now());
    for (const client of back.toSorted((a, b) => a.returnMs - b.returnMs)) {
      away.splice(away.indexOf(client), 1);
      ask(client);
    }
  }
  return {
    admittedAtFirst: numAdmittedAtFirst / numReturned,
    meanRefusals: sumRefusals / numAdmitted,
    idle: idleSteps / STEPS,
  };
}

test.each([
  [-5, "1", "1"],
  [0, "1", "1"],
  [0.2, "1", "1"],
  [400, "1", "400"],
  [999.5, "1", "1000"],
  [1000, "1", "1000"],
  [1000.1, "2", "1001"],
  [1e9, "60", "60000"],
])("a wait of %d ms is never told as none, and never too short", (waitMs, seconds, ms) => {
  expect(retryHeaders(waitMs)).toStrictEqual({
    "retry-after": seconds,
    "retry-after-ms": ms,
    "x-should-retry": "true",
  });
});

describe("clients that come back when they are told to", () => {
  test.each([0.7, 0.9, 1.1])("are soon admitted, and leave no seat empty, at %d times the load", (load) => {
    for (const seed of [1, 2, 3]) {
      const { admittedAtFirst, meanRefusals, idle } = simulate(seed, load);
      // New requests take the same places: told 200 ms each, clients would be refused six times and more.
      expect(admittedAtFirst).toBeGreaterThan(0.4);
      expect(meanRefusals).toBeLessThan(1);
      expect(idle).toBe(0);
    }
  });
});
