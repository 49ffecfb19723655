// Fair shares of clients, compared with a plain search and in simulated runs.

import {
  chargeClients,
  fairlyRunnable,
  nextAdmitted,
  nextPreempted,
  NO_TIMES,
  predictStepMs,
  type ClientTimes,
  type CostModel,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { randomInteger, seededRandom } from "../support/random.ts";

const COST: CostModel = { fixedMs: 1.5, msPerToken: 0.3, msPerExpert: 0.7, msPerCachedToken: 0, loadMsPerByte: 0 };

interface One {
  readonly id: string;
  readonly client: string | undefined;
  readonly priority: number;
  readonly arrival: number;
  readonly arrivalMs: number;
  readonly numTokens: number;
  readonly numComputedTokens: number;
  readonly completionTokens: number;
  readonly nextExperts: readonly number[];
  readonly waitingSinceMs: number;
}

function decoding(client: string | undefined, arrival: number, fields: Partial<One> = {}): One {
  return {
    id: `${client}-${arrival}`,
    client,
    priority: 0,
    arrival,
    arrivalMs: 0,
    numTokens: 10,
    numComputedTokens: 9,
    completionTokens: 0,
    nextExperts: [0],
    waitingSinceMs: 0,
    ...fields,
  };
}

const sequencesOf = (counts: Readonly<Record<string, number>>): readonly One[] =>
  Object.entries(counts).flatMap(([client, count]) =>
    Array.from({ length: count }, (_, index) => decoding(client, index)),
  );

/**
 * Runs steps of everybody who may run.
 * @returns milliseconds for a token of each client's sequences, and steps of all clients
 */
function run(sequences: readonly One[], numSteps: number) {
  let times: ClientTimes = NO_TIMES;
  let [nowMs, joint] = [0, 0];
  const steps = new Map<string | undefined, number>();
  const clients = new Set(sequences.map(({ client }) => client));
  for (let step = 0; step < numSteps; step++) {
    const chosen = fairlyRunnable(sequences, times, COST);
    const batch = chosen.map((sequence) => ({ sequence, numTokens: 1 }));
    nowMs += predictStepMs(COST, { tokens: batch.length, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
    times = chargeClients(times, sequences, batch, COST);
    const own = new Set(chosen.map(({ client }) => client));
    if (own.size === clients.size) joint++;
    for (const client of own) steps.set(client, (steps.get(client) ?? 0) + 1);
  }
  return { msPerToken: (client: string) => nowMs / (steps.get(client) ?? 0), joint };
}

describe("time", () => {
  test("does not restrict a single client", () => {
    const sequences = sequencesOf({ a: 5 });
    expect(fairlyRunnable(sequences, new Map([["a", 1e9]]), COST)).toEqual(sequences);
  });

  test.each([1, 4, 16, 64])(
    "at most about doubles the time of a client with one sequence beside one with %i",
    (others) => {
      const alone = predictStepMs(COST, { tokens: 1, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
      expect(run(sequencesOf({ one: 1, many: others }), 2000).msPerToken("one")).toBeLessThan(2.2 * alone);
    },
  );

  test("gives the other client its half", () => {
    const alone = predictStepMs(COST, { tokens: 32, distinctExperts: 1, cachedTokens: 0, missingBytes: 0 });
    expect(run(sequencesOf({ one: 1, many: 32 }), 4000).msPerToken("many")).toBeLessThan(2.2 * alone);
  });

  test("lets clients with equal needs share every step", () => {
    expect(run(sequencesOf({ a: 8, b: 8, c: 8 }), 500).joint).toBe(500);
  });

  test("keeps times small, forgets clients without sequences, and starts new clients with the least time", () => {
    const both = sequencesOf({ a: 1, b: 4 });
    let times: ClientTimes = NO_TIMES;
    for (let step = 0; step < 10_000; step++) {
      const batch = fairlyRunnable(both, times, COST).map((sequence) => ({ sequence, numTokens: 1 }));
      times = chargeClients(times, both, batch, COST);
      expect(Math.max(...times.values())).toBeLessThan(20);
    }
    const others = sequencesOf({ b: 4, c: 1 });
    times = chargeClients(times, others, [], COST);
    expect([...times.keys()]).toEqual(["b", "c"]);
    expect(Math.min(...times.values())).toBe(times.get("c"));
  });
});

test("charges each client what its part of a step would cost alone, as a plain count does", () => {
  const random = seededRandom(20262);
  const cost: CostModel = { ...COST, msPerCachedToken: 0.01 };
  let times: ClientTimes = NO_TIMES;
  for (let round = 0; round < 300; round++) {
    const ready = Array.from({ length: 1 + randomInteger(random, 6) }, (_, arrival) =>
      decoding(["a", "b", undefined][randomInteger(random, 3)], arrival, {
        numComputedTokens: randomInteger(random, 50),
        nextExperts: Array.from({ length: 1 + randomInteger(random, 5) }, () => randomInteger(random, 4)),
      }),
    );
    const batch = ready
      .filter(() => random() < 0.6)
      .map((sequence) => ({ sequence, numTokens: 1 + randomInteger(random, 7) }));
    const clients = [...new Set(ready.map(({ client }) => client))];
    const known = clients.flatMap((client) => times.get(client) ?? []);
    const least = known.length === 0 ? 0 : Math.min(...known);
    const expected = clients.map((client) => {
      let ms = (times.get(client) ?? least) - least;
      const own = batch.filter(({ sequence }) => sequence.client === client);
      const experts = new Set<number>();
      for (const { sequence, numTokens } of own) {
        sequence.nextExperts.forEach((expert, token) => token < numTokens && experts.add(expert));
        ms += numTokens * cost.msPerToken + sequence.numComputedTokens * cost.msPerCachedToken;
      }
      if (own.length > 0) ms += cost.fixedMs + experts.size * cost.msPerExpert;
      return [client, ms] as const;
    });
    times = chargeClients(times, ready, batch, cost);
    expect([...times.keys()]).toEqual(clients.length < 2 ? [] : clients);
    for (const [client, ms] of expected) if (clients.length > 1) expect(times.get(client)).toBeCloseTo(ms, 9);
  }
});

describe("places", () => {
  const random = seededRandom(20261);
  const clients = ["a", "b", undefined];

  test("admits the first sequence of the client with the fewest places, as a search does", () => {
    for (let round = 0; round < 2000; round++) {
      const some = (count: number, priorities: number): One[] =>
        Array.from({ length: count }, (_, arrival) =>
          decoding(clients[randomInteger(random, 3)], arrival, { priority: randomInteger(random, priorities) }),
        );
      const waiting = some(randomInteger(random, 8), 3).toSorted(
        (a, b) => b.priority - a.priority || a.arrival - b.arrival,
      );
      const running = some(randomInteger(random, 9), 1);
      const held = (client: string | undefined): number => running.filter((one) => one.client === client).length;
      const allowed = waiting.filter(({ client }) => held(client) < (client === undefined ? 8 : 7));
      const best = allowed.toSorted(
        (a, b) => b.priority - a.priority || held(a.client) - held(b.client) || a.arrival - b.arrival,
      )[0];
      expect(waiting[nextAdmitted(waiting, running, 8)]).toBe(best);
    }
  });

  test("preempts a sequence of the lowest priority, of the client with the most tokens", () => {
    const small = decoding("small", 5, { numTokens: 10 });
    const large = [decoding("large", 1, { numTokens: 100 }), decoding("large", 2, { numTokens: 50 })];
    expect(nextPreempted([small, ...large])).toBe(large[1]);
    const low = decoding("small", 0, { priority: -1 });
    expect(nextPreempted([small, ...large, low])).toBe(low);
    expect(nextPreempted([decoding(undefined, 1), decoding(undefined, 2)]).arrival).toBe(2);
    expect(() => nextPreempted([])).toThrow(new RangeError("Expected a running sequence to preempt, got none"));
  });

  test("preempts the sequence that a search finds", () => {
    for (let round = 0; round < 500; round++) {
      const running = Array.from({ length: 1 + randomInteger(random, 7) }, (_, arrival) =>
        decoding(clients[randomInteger(random, 3)], arrival, {
          priority: randomInteger(random, 2),
          numTokens: 1 + randomInteger(random, 4),
        }),
      );
      const lowest = running.filter((one) => running.every(({ priority }) => one.priority <= priority));
      // Tokens of sequences with a higher priority count, too.
      const tokensOf = (client: string | undefined): number =>
        running.reduce((sum, one) => sum + (one.client === client ? one.numTokens : 0), 0);
      const most = Math.max(...lowest.map(({ client }) => tokensOf(client)));
      expect(nextPreempted(running)).toBe(lowest.findLast(({ client }) => tokensOf(client) === most));
    }
  });
});
