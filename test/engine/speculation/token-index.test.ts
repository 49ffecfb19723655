import { expect, test } from "vitest";
import { MATCH_LENGTHS, TokenIndex } from "../../../packages/engine/src/speculation/text-drafter.ts";
import { randomInteger, seededRandom } from "../../support/random.ts";

/** A token of a text, in the order in which tokens were added over all texts. */
interface Added {
  readonly text: number;
  readonly tokenId: number;
}

/** Finds what `TokenIndex` should propose by looking at every earlier place. */
function plainPropose(
  added: readonly Added[],
  mostTokens: number,
): { tokenIds: number[]; classes: number[] } | undefined {
  const places = added.map((one, order) => ({ ...one, order }));
  const textOf = (text: number) => places.filter((one) => one.text === text);
  const own = textOf(0);
  // Of each place that has a next token: its order, its text up to it, and the tokens after it.
  const all = places.flatMap((place) => {
    const text = textOf(place.text);
    const at = text.indexOf(place);
    const after = text.slice(at + 1).map(({ tokenId }) => tokenId);
    return after.length === 0 ? [] : [{ ...place, upTo: text.slice(0, at + 1).map(({ tokenId }) => tokenId), after }];
  });
  const suffix = (length: number): string =>
    own
      .slice(-length)
      .map(({ tokenId }) => tokenId)
      .join();
  for (const [level, length] of Array.from(MATCH_LENGTHS.entries()).toReversed()) {
    if (own.length < length) continue;
    const matches = all.filter(({ upTo }) => upTo.length >= length && upTo.slice(-length).join() === suffix(length));
    const [latest, second, third] = matches.toReversed();
    if (!latest) continue;
    let [chosen, agreement] = [latest, 0];
    if (second) {
      agreement = latest.after[0] === second.after[0] ? 1 : 2;
      if (agreement === 2 && third && second.after[0] === third.after[0]) chosen = second;
    }
    const tokenIds = chosen.after.slice(0, mostTokens);
    // In the own text, a continuation that reaches the end begins again.
    while (chosen.text === 0 && tokenIds.length < mostTokens) {
      tokenIds.push(tokenIds[tokenIds.length - chosen.after.length] ?? -1);
    }
    const classes = tokenIds.map((_, at) => {
      const reached = MATCH_LENGTHS.filter((one) => one <= (MATCH_LENGTHS[level] ?? 0) + at).length - 1;
      return 3 * reached + agreement;
    });
    return { tokenIds, classes };
  }
  return undefined;
}

test("proposes what a search of all earlier places finds", () => {
  for (let seed = 1; seed <= 80; seed++) {
    const random = seededRandom(seed);
    const alphabet = 1 + randomInteger(random, 6);
    const index = new TokenIndex();
    const added: Added[] = [];
    const push = (tokenId: number, text: number): void => {
      index.push(tokenId, text);
      added.push({ text, tokenId });
    };
    let numTexts = 1;
    for (let step = 0; step < 80; step++) {
      if (random() < 0.03) {
        const tokenIds = Array.from({ length: randomInteger(random, 20) }, () => randomInteger(random, alphabet));
        expect(index.addText(tokenIds)).toBe(numTexts);
        for (const tokenId of tokenIds) added.push({ text: numTexts, tokenId });
        numTexts++;
      }
      push(randomInteger(random, alphabet), random() < 0.7 ? 0 : randomInteger(random, numTexts));
      const most = randomInteger(random, 14);
      const proposed = index.propose(most);
      const expected = plainPropose(added, most);
      expect(proposed && { tokenIds: proposed.tokenIds, classes: proposed.classes }).toEqual(expected);
    }
  }
});

test("finds matches after its tables have grown many times", () => {
  const random = seededRandom(5);
  const index = new TokenIndex();
  const tokenIds = Array.from({ length: 20_000 }, () => randomInteger(random, 49_152));
  for (const tokenId of tokenIds) index.push(tokenId);
  for (const from of [0, 1, 7000, 12_345, 19_000]) {
    for (const tokenId of tokenIds.slice(from, from + 9)) index.push(tokenId);
    const proposed = index.propose(8);
    expect(proposed?.tokenIds).toEqual(tokenIds.slice(from + 9, from + 17));
    expect(proposed?.classes).toEqual(Array(8).fill(15));
  }
});

test("continues a repetition beyond its end", () => {
  const index = new TokenIndex();
  for (const tokenId of [9, 1, 2, 3, 1, 2, 3]) index.push(tokenId);
  expect(index.propose(8)?.tokenIds).toEqual([1, 2, 3, 1, 2, 3, 1, 2]);
});

test("keeps texts apart", () => {
  const index = new TokenIndex();
  index.addText([1, 2]);
  index.addText([3, 4, 5]);
  for (const tokenId of [7, 1, 2]) index.push(tokenId);
  // The first text ends after 2, and 3 is another text's beginning.
  expect(index.propose(4)).toBeUndefined();
  index.push(3);
  expect(index.propose(4)?.tokenIds).toEqual([4, 5]);
});

test("prefers what the two occurrences before the latest one agree on", () => {
  const index = new TokenIndex();
  index.addText([1, 8, 1, 8, 1, 9]);
  index.push(1);
  expect(index.propose(1)).toEqual({ source: "context", tokenIds: [8], classes: [2] });
});

test("proposes nothing without tokens, or without an earlier occurrence", () => {
  const index = new TokenIndex();
  expect(index.propose(4)).toBeUndefined();
  for (const tokenId of [1, 2, 3]) index.push(tokenId);
  expect(index.propose(4)).toBeUndefined();
  expect(new TokenIndex().propose(0)).toBeUndefined();
});
