// Which passages share a run of their common beginning.

import { expect, test } from "vitest";
import { treesOf } from "../../packages/engine/src/evaluation/score-passages.ts";
import type { Passage } from "../../packages/engine/src/evaluation/passages.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Makes passages of `common` equal tokens, then a token of their own and more; nothing is predicted from the last. */
function groupOf(count: number, common: number, tails: (index: number) => number): readonly Passage[] {
  return Array.from({ length: count }, (_, index) => ({
    tokenIds: Int32Array.from([...Array<number>(common).fill(7), ...Array<number>(tails(index) + 1).fill(100 + index)]),
    firstTarget: 1,
  }));
}

test.each([
  [1, 1000, false],
  [2, 32, false],
  [2, 33, true],
  [3, 24, false],
  [3, 25, true],
  [5, 20, false],
  [5, 21, true],
])("%i passages with %i common tokens share a run: %s", (count, common, isShared) => {
  const trees = treesOf(
    groupOf(count, common, (index) => 1 + index),
    3,
  );
  expect(trees.map(({ numPassages }) => numPassages)).toEqual(isShared ? [count] : Array(count).fill(1));
  // A branch costs as much as 16 tokens more, and each passage that runs alone costs its beginning again.
  expect((count - 1) * common > 16 * count).toBe(isShared);
});

test("each row is wanted once, at its own passage, position and place, whether or not a beginning is shared", () => {
  const random = seededRandom(3);
  let numShared = 0;
  for (let round = 0; round < 300; round++) {
    const group = groupOf(1 + randomInteger(random, 5), randomInteger(random, 60), () => randomInteger(random, 6)).map(
      ({ tokenIds }) => ({
        tokenIds: Int32Array.of(1, ...tokenIds),
        firstTarget: 1 + randomInteger(random, tokenIds.length),
      }),
    );
    const first = randomInteger(random, 9);
    const trees = treesOf(group, first);
    if (group.length > 1 && trees.length === 1) numShared++;
    const wanted: string[] = [];
    for (const { trunk, branches } of trees) {
      expect(trunk.start).toBe(0);
      for (const piece of [trunk, ...branches]) {
        const { tokenIds: whole } = group[piece.passage - first] as Passage;
        expect(piece.tokenIds).toEqual(whole.subarray(piece.start, piece.start + piece.tokenIds.length));
        expect(piece === trunk || piece.start === trunk.tokenIds.length).toBe(true);
        const positions = piece.rows.map(({ position }) => position);
        expect(positions).toEqual(positions.toSorted((a, b) => a - b));
        for (const { position, target, passage, place } of piece.rows) {
          expect(position).toBeGreaterThanOrEqual(piece.start);
          expect(position).toBeLessThan(piece.start + piece.tokenIds.length);
          wanted.push(`${passage} ${place} ${position} ${target}`);
        }
      }
    }
    const expected = group.flatMap(({ tokenIds, firstTarget }, index) =>
      Array.from(
        tokenIds.subarray(firstTarget),
        (target, place) => `${first + index} ${place} ${firstTarget + place - 1} ${target}`,
      ),
    );
    expect(wanted.toSorted()).toEqual(expected.toSorted());
  }
  expect(numShared).toBeGreaterThan(30);
});
