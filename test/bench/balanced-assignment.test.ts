// Balanced assignments beside exhaustive search.

import { expect, test } from "vitest";
import { balancedAssignment } from "../../bench/kit/balanced-assignment.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Returns the largest sum of scores of all assignments that fit. */
function bestSum(scores: readonly (readonly number[])[], left: readonly number[]): number {
  const [first, ...rest] = scores;
  if (!first) return 0;
  return Math.max(
    ...first.map((score, bin) => (left[bin] === 0 ? -Infinity : score + bestSum(rest, left.with(bin, left[bin]! - 1)))),
  );
}

test("keeps the room of each bin, and nearly the best sum of scores", () => {
  const random = seededRandom(1);
  let [found, best] = [0, 0];
  for (let round = 0; round < 60; round++) {
    const [numItems, numBins] = [randomInteger(random, 7) + 1, randomInteger(random, 3) + 1];
    const room = Math.ceil(numItems / numBins) + randomInteger(random, 2);
    const scores = Array.from({ length: numItems }, () => Array.from({ length: numBins }, () => random()));
    const bins = balancedAssignment(scores, room);
    expect(bins).toHaveLength(numItems);
    for (let bin = 0; bin < numBins; bin++) expect(bins.filter((own) => own === bin).length).toBeLessThanOrEqual(room);
    found += bins.reduce((sum, bin, item) => sum + scores[item]![bin]!, 0);
    best += bestSum(scores, Array(numBins).fill(room));
  }
  expect(found / best).toBeGreaterThan(0.97);
});

test("gives each item its best bin where all have room", () => {
  const scores = [
    [3, 1],
    [0, 2],
    [5, 4],
  ];
  expect(balancedAssignment(scores, 3)).toEqual([0, 1, 0]);
  expect(
    balancedAssignment(
      [
        [1, 1],
        [1, 1],
      ],
      1,
    ).toSorted((a, b) => a - b),
  ).toEqual([0, 1]);
  expect(() => balancedAssignment(scores, 1)).toThrow(/room for 3/);
  expect(balancedAssignment([], 1)).toEqual([]);
});
