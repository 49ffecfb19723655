import { encodeStep, type StepRows } from "@readme-moe/kernel";
import { expect, test } from "vitest";

const ROWS: StepRows = { tokenIds: [3, 49], position: 15, pages: [7, 0], logitsOf: [0, 1, 1] };

test("a step is a header, tokens, experts, loras, sequences, pages, wanted rows with their places, and saves", () => {
  const second: StepRows = {
    tokenIds: [1],
    experts: [2],
    loras: [1],
    position: 0,
    pages: [2, 5],
    logitsOf: [0],
    targets: [9],
    fullPlaces: [1],
  };
  const first: StepRows = {
    ...ROWS,
    state: 6,
    saves: [
      { token: 0, state: 4 },
      { token: 1, state: 6 },
    ],
  };
  const parts = [
    [3, 2, 4, 4, 3, 2, 2],
    [3, 49, 1],
    [0, 0, 2],
    [-1, -1, 1],
    [2, 15, 0, 6, 1, 0, 2, -1],
    [7, 0, 2],
    [0, 1, 1, 2],
    [0, 0, 0, 9],
    [-1, -1, -1, 1],
    [0, 1],
    [4, 6],
  ];
  expect(Array.from(encodeStep([first, second], 4, 2))).toEqual(parts.flat());
});

test.each<[string, Partial<StepRows>]>([
  ["fewer experts than tokens", { experts: [1] }],
  ["more loras than tokens", { loras: [1, 1, 1] }],
  ["too few pages", { pages: [7] }],
  ["fewer targets than rows of logits", { targets: [1, 2] }],
  ["fewer places than rows of logits", { fullPlaces: [0] }],
])("a step with %s is a RangeError", (_, change) => {
  expect(() => encodeStep([{ ...ROWS, ...change }], 1)).toThrow(RangeError);
});
