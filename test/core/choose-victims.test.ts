// Compares the units that are evicted with a search of all sets of units.

import type { EvictionCandidate, EvictionPolicy } from "@readme-moe/core";
import { describe, expect, test } from "vitest";
import { chooseVictims as chooseFrom } from "../../packages/core/src/expert-cache/eviction-policy.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

const chooseVictims = (
  candidates: readonly EvictionCandidate[],
  missingBytes: number,
  policy: EvictionPolicy,
  firstDecision: number,
) => chooseFrom({ candidates, missingBytes, policy, firstDecision });

const unit = (expert: number, bytes: number): EvictionCandidate => ({
  layer: 0,
  expert,
  bytes,
  nextUse: Infinity,
  layersAway: 1,
  lastUse: -1,
  idleSteps: Infinity,
  numUses: 0,
});

/** Units in the order in which the policy evicts them. */
const units = (...bytes: readonly number[]): readonly EvictionCandidate[] => bytes.map((size, i) => unit(i, size));
const experts = (chosen: readonly EvictionCandidate[] | undefined): readonly number[] | undefined =>
  chosen?.map(({ expert }) => expert).toSorted((a, b) => a - b);
const bytesOf = (some: readonly EvictionCandidate[]): number => some.reduce((sum, { bytes }) => sum + bytes, 0);
const inOrder = ([first]: readonly EvictionCandidate[]): EvictionCandidate => first as EvictionCandidate;

/**
 * Finds the evicted units of `order`, which begins with the least valuable unit. The policy is asked for the shortest
 * beginning that makes room. Of all its subsets that make room too, the chosen one keeps the most valuable unit; among
 * these, the one that keeps the second most valuable unit; and so on.
 */
function searched(order: readonly EvictionCandidate[], missingBytes: number): readonly number[] | undefined {
  const length = Array.from({ length: order.length + 1 }, (_, count) => count).find(
    (count) => bytesOf(order.slice(0, count)) >= missingBytes,
  );
  if (length === undefined) return undefined;
  // More valuable units have higher bits, so the least number keeps the most valuable units.
  for (let set = 0; set < 2 ** length; set++) {
    const leaving = order.slice(0, length).filter((_, place) => Math.floor(set / 2 ** place) % 2 === 1);
    if (bytesOf(leaving) >= missingBytes) return experts(leaving);
  }
  throw new Error("Expected the whole beginning to make room");
}

const inTheirOrder = (chosen: readonly EvictionCandidate[] | undefined) => chosen?.map(({ expert }) => expert);

describe("chooseVictims", () => {
  test("lists the units in the reverse of the policy's order, without those that need not leave", () => {
    expect(inTheirOrder(chooseVictims(units(2, 2, 2, 2), 6, inOrder, 0))).toEqual([2, 1, 0]);
    expect(inTheirOrder(chooseVictims(units(3, 1, 6), 9, inOrder, 0))).toEqual([2, 0]);
  });

  test("evicts the less valuable of two units if one must go beside a larger one", () => {
    expect(experts(chooseVictims(units(3, 3, 6), 9, inOrder, 0))).toEqual([0, 2]);
  });

  test("evicts a large unit alone if it makes enough room", () => {
    expect(experts(chooseVictims(units(1, 2, 8), 8, inOrder, 0))).toEqual([2]);
  });

  test("evicts nothing if nothing is missing, and returns undefined if all units are not enough", () => {
    expect(chooseVictims(units(1, 2), 0, inOrder, 0)).toEqual([]);
    expect(chooseVictims(units(1, 2), 4, inOrder, 0)).toBeUndefined();
    expect(chooseVictims([], 1, inOrder, 0)).toBeUndefined();
  });

  test("agrees with a search, for all sizes of up to five units and any room", () => {
    const sizes = [1, 2, 3, 5];
    for (let count = 1; count <= 5; count++) {
      for (let code = 0; code < sizes.length ** count; code++) {
        const order = units(
          ...Array.from(
            { length: count },
            (_, i) => sizes[Math.floor(code / sizes.length ** i) % sizes.length] as number,
          ),
        );
        const total = bytesOf(order);
        for (let missing = 0; missing <= total + 1; missing++) {
          const what = `${missing} of ${order.map(({ bytes }) => bytes).join(", ")}`;
          expect(experts(chooseVictims(order, missing, inOrder, 0)), what).toEqual(searched(order, missing));
        }
      }
    }
  });
});

test.each([1, 2, 3, 4])("passes the missing bytes and the decision number to the policy (seed %i)", (seed) => {
  const random = seededRandom(seed);
  for (let round = 0; round < 100; round++) {
    const candidates = units(...Array.from({ length: randomInteger(random, 9) }, () => 1 + randomInteger(random, 20)));
    const order = candidates
      .map((one) => [random(), one] as const)
      .toSorted(([a], [b]) => a - b)
      .map(([, one]) => one);
    const missingBytes = randomInteger(random, 60);
    const firstDecision = randomInteger(random, 1000);
    const asked: EvictionCandidate[] = [];
    const chosen = chooseVictims(
      candidates,
      missingBytes,
      (left, context) => {
        expect(left).toEqual(candidates.filter((one) => !asked.includes(one)));
        expect(context).toEqual({
          missingBytes: missingBytes - bytesOf(asked),
          decision: firstDecision + asked.length,
        });
        const next = order[asked.length] as EvictionCandidate;
        asked.push(next);
        return next;
      },
      firstDecision,
    );
    expect(experts(chosen)).toEqual(searched(order, missingBytes));
  }
});
