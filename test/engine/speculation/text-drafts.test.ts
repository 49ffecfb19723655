import { describe, expect, test } from "vitest";
import { RECYCLED_CLASSES, RecycledTokens } from "../../../packages/engine/src/speculation/recycled-tokens.ts";
import {
  CONTEXT_CLASSES,
  proposeTextDrafts,
  type TextDraftsInput,
  TokenIndex,
} from "../../../packages/engine/src/speculation/text-drafter.ts";

/** Makes a sequence with this text, and a table that was taught `[before, last, next, probability]`. */
function given(
  text: readonly number[],
  taught: readonly (readonly [number, number, number, number])[],
): Omit<TextDraftsInput, "mostTokens"> {
  const index = new TokenIndex();
  for (const id of text) index.push(id);
  const recycled = new RecycledTokens();
  for (const [before, last, next, probability] of taught) {
    recycled.learn(before, last, {
      candidateIds: Int32Array.of(next),
      candidateLogits: Float32Array.of(Math.log(probability)),
      logSumExp: 0,
    });
  }
  return { index, recycled, lastTokens: [text.at(-2) ?? -1, text.at(-1) ?? -1] };
}

const QUOTING = [1, 2, 3, 4, 9, 1, 2];
const draftsOf = (input: Omit<TextDraftsInput, "mostTokens">) => proposeTextDrafts({ ...input, mostTokens: 2 });

test("proposes what each source proposes alone", () => {
  const input = given(QUOTING, [[1, 2, 8, 0.9]]);
  const drafts = draftsOf(input);
  expect(drafts.map(({ source }) => source)).toEqual(["context", "recycled"]);
  expect(drafts.map(({ tokenIds }) => tokenIds)).toEqual([
    input.index.propose(2)?.tokenIds,
    input.recycled.propose(1, 2, 2)?.tokenIds,
  ]);
  expect(draftsOf(given([5], []))).toEqual([]);
  expect(draftsOf(given(QUOTING, [])).map(({ source }) => source)).toEqual(["context"]);
  expect(draftsOf(given([5, 6], [[5, 6, 7, 0.9]])).map(({ source }) => source)).toEqual(["recycled"]);
});

const classesOf = (taught: Parameters<typeof given>[1], source: string): readonly number[] =>
  draftsOf(given(QUOTING, taught)).find((draft) => draft.source === source)?.classes ?? [];

describe("classes", () => {
  test("of a match tell apart what the recycled candidates say about each token", () => {
    const alone = classesOf([], "context");
    const opinions = [
      [],
      [[7, 2, 3, 0.9]],
      [[1, 2, 3, 0.4]],
      [
        [1, 2, 3, 0.99],
        [1, 2, 3, 0.99],
      ],
      [[7, 2, 8, 0.9]],
      [[1, 2, 8, 0.4]],
      [
        [1, 2, 8, 0.99],
        [1, 2, 8, 0.99],
      ],
    ] as const;
    const firsts = opinions.map((taught) => classesOf(taught, "context")[0] ?? -1);
    expect(new Set(firsts).size).toBe(opinions.length);
    for (const evidence of firsts) expect(evidence % CONTEXT_CLASSES).toBe(alone[0]);
    // The second token has its own opinion: nothing is known after 2 and 3.
    expect(classesOf([[1, 2, 3, 0.9]], "context")[1]).toBe(alone[1]);
    expect(classesOf([[2, 3, 4, 0.9]], "context")[1]).not.toBe(alone[1]);
  });

  test("of a chain tell apart whether the texts say the same about its first token", () => {
    const same = classesOf([[1, 2, 3, 0.9]], "recycled");
    const other = classesOf([[1, 2, 8, 0.9]], "recycled");
    const alone = draftsOf(given([5, 1, 2], [[1, 2, 8, 0.9]]))[0]?.classes ?? [];
    expect(new Set([same[0], other[0], alone[0]]).size).toBe(3);
    for (const [first = 0] of [same, other]) expect(first % RECYCLED_CLASSES).toBe(alone[0]);
    expect(alone[0]).toBeLessThan(RECYCLED_CLASSES);
  });
});
