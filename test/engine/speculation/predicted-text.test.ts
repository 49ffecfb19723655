import { expect, test } from "vitest";
import { PredictedText } from "../../../packages/engine/src/speculation/text-drafter.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";

function after(text: readonly number[], answer: readonly number[]): PredictedText {
  const predicted = new PredictedText(text);
  for (const id of answer) predicted.push(id);
  return predicted;
}

/** Finds the next place by the rules alone, from the whole answer. */
function plainNext(text: readonly number[], answer: readonly number[]): number {
  let next = 0;
  for (const [at, id] of answer.entries()) {
    if (text[next] === id) {
      next++;
      continue;
    }
    const recent = answer.slice(Math.max(0, at - 8), at + 1).toReversed();
    const places = text.map((_, end) => {
      const differs = recent.findIndex((one, back) => text[end - back] !== one);
      const distance = end >= next ? end - next : text.length + next - end;
      return { end, length: differs < 0 ? recent.length : differs, distance };
    });
    const [best] = places
      .filter(({ length }) => length > 0)
      .toSorted((a, b) => b.length - a.length || a.distance - b.distance);
    next = (best?.end ?? next) + 1;
  }
  return next;
}

test("follows the text from its beginning to its end", () => {
  const text = [5, 6, 7, 8, 9];
  expect(after(text, []).propose(3)).toEqual({ source: "prediction", tokenIds: [5, 6, 7], classes: [0, 1, 2] });
  expect(after(text, [5, 6]).propose(9)).toEqual({ source: "prediction", tokenIds: [7, 8, 9], classes: [2, 3, 4] });
  expect(after(text, text).propose(9)).toBeUndefined();
  expect(after([], [1]).propose(9)).toBeUndefined();
});

test("finds its place again after a replaced, an added and a missing token", () => {
  const text = Array.from({ length: 40 }, (_, at) => 100 + at);
  const rest = (from: number): readonly number[] => text.slice(from, from + 4);
  const start = text.slice(0, 10);
  // 7 instead of 110: 111 is expected next.
  expect(after(text, [...start, 7]).propose(4)?.tokenIds).toEqual(rest(11));
  // 7 before 110: that 110 comes next shows at 110.
  expect(after(text, [...start, 7, 110]).propose(4)?.tokenIds).toEqual(rest(11));
  // 110 and 111 are left out.
  expect(after(text, [...start, 112]).propose(4)?.tokenIds).toEqual(rest(13));
});

test("prefers the next of equal places, and a longer match to a nearer one", () => {
  const text = [1, 2, 3, 1, 2, 4, 1, 2, 5];
  expect(after(text, [1, 2, 3, 8, 2]).propose(1)?.tokenIds).toEqual([4]);
  expect(after([1, 2, 3, 4, 0, 1, 2, 4, 7], [1, 2, 4]).propose(1)?.tokenIds).toEqual([7]);
});

test("is where the rules say, for random texts", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = seededRandom(seed);
    const alphabet = 2 + randomInteger(random, 8);
    const text = Array.from({ length: randomInteger(random, 30) }, () => randomInteger(random, alphabet));
    const answer: number[] = [];
    const predicted = new PredictedText(text);
    for (let step = 0; step < 40; step++) {
      const [likely] = predicted.propose(1)?.tokenIds ?? [];
      const id = likely === undefined || random() < 0.25 ? randomInteger(random, alphabet) : likely;
      predicted.push(id);
      answer.push(id);
      const next = plainNext(text, answer);
      expect(predicted.propose(5)?.tokenIds ?? []).toEqual(text.slice(next, next + 5));
    }
  }
});
