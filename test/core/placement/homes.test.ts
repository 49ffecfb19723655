import {
  homesOf,
  movedHomes,
  NO_HOMES,
  rendezvousOrder,
  seededRandom,
  smoothDemand,
  type Homes,
  type Member,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";

const members = (count: number, capacity = 1): readonly Member[] =>
  Array.from({ length: count }, (_, index) => ({ id: `w${index}`, capacity }));
const zipf = (count: number, skew = 1): Record<string, number> =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`e${index}`, (index + 1) ** -skew]));

/** Load of each worker relative to its fair share, recomputed from homes alone. */
function loadsOf(homes: Homes, demand: Readonly<Record<string, number>>, all: readonly Member[]): readonly number[] {
  const total = Object.values(demand).reduce((sum, value) => sum + value, 0);
  const capacity = all.reduce((sum, member) => sum + member.capacity, 0);
  return all.map((member) => {
    let load = 0;
    for (const [key, value] of Object.entries(demand)) {
      for (const { workerId, share } of homes.byKey[key] ?? []) if (workerId === member.id) load += share * value;
    }
    return load / ((total * member.capacity) / capacity);
  });
}

const numPairs = (homes: Homes): number => Object.values(homes.byKey).flat().length;

describe("rendezvous hashing", () => {
  test("gives each worker a part of the keys in proportion to its capacity", () => {
    const all = [
      { id: "a", capacity: 1 },
      { id: "b", capacity: 2 },
      { id: "c", capacity: 5 },
    ];
    const counts = new Map<string, number>();
    for (let key = 0; key < 8000; key++) {
      const first = rendezvousOrder(`k${key}`, all)[0]?.id ?? "";
      counts.set(first, (counts.get(first) ?? 0) + 1);
    }
    // Four standard deviations of a share of 8,000 draws are at most 0.023.
    for (const { id, capacity } of all)
      expect(Math.abs((counts.get(id) ?? 0) / 8000 - capacity / 8)).toBeLessThan(0.023);
  });

  test("keeps the order of the others when a worker joins or leaves, whatever the order of the list", () => {
    const five = members(5, 2);
    for (let key = 0; key < 200; key++) {
      const all = rendezvousOrder(`k${key}`, five.toReversed()).map(({ id }) => id);
      for (const gone of five) {
        const rest = five.filter((member) => member !== gone);
        expect(rendezvousOrder(`k${key}`, rest).map(({ id }) => id)).toEqual(all.filter((id) => id !== gone.id));
      }
    }
  });
});

describe("homes", () => {
  test("give hot keys several workers, let cold keys share one, and load all workers evenly", () => {
    for (const [keys, workers] of [
      [7, 2],
      [7, 4],
      [16, 4],
      [7, 16],
      [64, 16],
      [64, 64],
    ] as const) {
      const demand = zipf(keys);
      const homes = homesOf({ demand, members: members(workers), previous: NO_HOMES });
      expect(Math.max(...loadsOf(homes, demand, members(workers)))).toBeLessThanOrEqual(1.16);
      // Each split fills a worker or ends a key.
      expect(numPairs(homes)).toBeLessThanOrEqual(keys + workers);
      for (const own of Object.values(homes.byKey)) {
        expect(own.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 9);
        expect(new Set(own.map(({ workerId }) => workerId)).size).toBe(own.length);
      }
    }
    const homes = homesOf({ demand: zipf(7), members: members(4), previous: NO_HOMES });
    expect(homes.byKey["e0"]?.length).toBeGreaterThan(1);
    expect(homes.byKey["e6"]).toHaveLength(1);
  });

  test("follow capacities: a worker of twice the speed has twice the load", () => {
    const all = [
      { id: "slow", capacity: 1 },
      { id: "fast", capacity: 2 },
    ];
    const demand = zipf(40, 0.3);
    const homes = homesOf({ demand, members: all, previous: NO_HOMES });
    for (const load of loadsOf(homes, demand, all)) expect(Math.abs(load - 1)).toBeLessThan(0.16);
  });

  test("depend on demand and members, not on the order in which they are listed", () => {
    const demand = zipf(9);
    const turned = Object.fromEntries(Object.entries(demand).toReversed());
    const once = homesOf({ demand, members: members(5), previous: NO_HOMES });
    expect(homesOf({ demand: turned, members: members(5).toReversed(), previous: NO_HOMES })).toEqual(once);
  });

  test("do not move while demand changes by a tenth", () => {
    const random = seededRandom(3);
    for (const workers of [2, 4, 8]) {
      let homes = homesOf({ demand: zipf(7), members: members(workers), previous: NO_HOMES });
      for (let round = 0; round < 50; round++) {
        const demand = Object.fromEntries(
          Object.entries(zipf(7)).map(([key, value]) => [key, value * (0.9 + 0.2 * random())]),
        );
        const next = homesOf({ demand, members: members(workers), previous: homes });
        expect(movedHomes(homes, next)).toBe(0);
        homes = next;
      }
    }
  });

  test("move few keys when a worker joins or leaves", () => {
    for (const workers of [4, 8, 16]) {
      const demand = zipf(64, 0.5);
      const before = homesOf({ demand, members: members(workers), previous: NO_HOMES });
      const joined = homesOf({ demand, members: members(workers + 1), previous: before });
      const left = homesOf({ demand, members: members(workers).slice(1), previous: before });
      // A worker's fair part of the keys, and one key for each of the others that sheds.
      const most = 64 / workers + workers;
      expect(movedHomes(before, joined)).toBeLessThanOrEqual(most);
      expect(movedHomes(before, left)).toBeLessThanOrEqual(most);
      expect(movedHomes(before, joined)).toBeGreaterThan(0);
      expect(Math.max(...loadsOf(joined, demand, members(workers + 1)))).toBeLessThanOrEqual(1.26);
      expect(Math.max(...loadsOf(left, demand, members(workers).slice(1)))).toBeLessThanOrEqual(1.26);
    }
  });

  test("stay complete, even and slow under random changes of demand and members", () => {
    const random = seededRandom(7);
    for (let run = 0; run < 40; run++) {
      const keys = 1 + Math.floor(random() * 20);
      let demand = zipf(keys, random() * 1.5);
      let all = members(2 + Math.floor(random() * 6));
      let homes: Homes = NO_HOMES;
      for (let round = 0; round < 30; round++) {
        const chance = random();
        const key = `e${Math.floor(random() * keys)}`;
        if (chance < 0.5) demand = { ...demand, [key]: random() < 0.2 ? 0 : 2 * random() };
        else if (chance < 0.6) all = [...all, { id: `j${run}-${round}`, capacity: 1 }];
        else if (chance < 0.7 && all.length > 1) all = all.filter((_, index) => index !== round % all.length);
        const next = homesOf({ demand, members: all, previous: homes });
        const again = homesOf({ demand, members: all, previous: next });
        for (const own of Object.keys(demand)) {
          const ids = next.byKey[own]?.map(({ workerId }) => workerId) ?? [];
          expect(ids.length).toBeGreaterThan(0);
          expect(all.map(({ id }) => id)).toEqual(expect.arrayContaining(ids));
        }
        const total = Object.values(demand).reduce((sum, value) => sum + value, 0);
        // A part of less than a tenth may be on top of a load up to the limit.
        if (total > 0) expect(Math.max(...loadsOf(next, demand, all))).toBeLessThanOrEqual(1.36);
        expect(movedHomes(next, again)).toBeLessThanOrEqual(1);
        homes = next;
      }
    }
  });

  test("are none without workers, and on the only worker if there is one", () => {
    expect(homesOf({ demand: zipf(3), members: [], previous: NO_HOMES })).toEqual({ byKey: {} });
    const { byKey } = homesOf({ demand: { ...zipf(3), cold: 0 }, members: members(1), previous: NO_HOMES });
    for (const key of ["e0", "e1", "e2", "cold"]) expect(byKey[key]).toEqual([{ workerId: "w0", share: 1 }]);
  });

  test("refuse wrong input by name", () => {
    const input = { demand: zipf(3), members: members(2), previous: NO_HOMES };
    expect(() => homesOf({ ...input, demand: { e0: -1 } })).toThrow(RangeError);
    expect(() => homesOf({ ...input, members: [{ id: "a", capacity: 0 }] })).toThrow(/`capacity` of worker a/);
  });
});

test("smoothed demand halves in its half-life, and tends to a steady rate of work", () => {
  const options = { elapsedMs: 1000, halfLifeMs: 1000 };
  expect(smoothDemand({ a: 8 }, {}, options)).toEqual({ a: 4 });
  let demand: Readonly<Record<string, number>> = {};
  for (let second = 0; second < 40; second++) demand = smoothDemand(demand, { a: 5000 }, options);
  expect(demand["a"]).toBeCloseTo(5, 6);
});
