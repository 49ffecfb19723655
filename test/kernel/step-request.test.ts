import { encodeStep, type StepLimits, type StepRows } from "@readme-moe/kernel";
import { expect, test } from "vitest";

const LIMITS: StepLimits = {
  vocabSize: 50,
  maxRows: 20,
  maxPositions: 64,
  numPages: 8,
  numFullRows: 2,
  numExperts: 3,
  numLoras: 2,
};
const ROWS: StepRows = { tokenIds: [3, 49], position: 15, pages: [7, 0], logitsOf: [0, 1, 1] };

test("a step is a header, tokens, experts, loras, sequences, pages, wanted rows, their targets and places", () => {
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
  const parts = [
    [3, 2, 4, 4, 3, 2],
    [3, 49, 1],
    [0, 0, 2],
    [-1, -1, 1],
    [2, 15, 0, 1, 0, 2],
    [7, 0, 2],
    [0, 1, 1, 2],
    [0, 0, 0, 9],
    [-1, -1, -1, 1],
  ];
  expect(Array.from(encodeStep([ROWS, second], 4, LIMITS))).toEqual(parts.flat());
});

test.each<[string, Partial<StepRows>]>([
  ["no tokens", { tokenIds: [], logitsOf: [] }],
  ["a token that is not in the vocabulary", { tokenIds: [3, 50] }],
  ["a negative token", { tokenIds: [-1, 3] }],
  ["an expert that is not there", { experts: [0, 3] }],
  ["a negative expert", { experts: [0, -1] }],
  ["fewer experts than tokens", { experts: [1] }],
  ["a negative position", { position: -1 }],
  ["a position behind the last", { position: 63, pages: [0, 1, 2, 3, 4] }],
  ["too few pages", { pages: [7] }],
  ["a page that is not there", { pages: [7, 8] }],
  ["a negative page", { pages: [-1, 0] }],
  ["logits of a row that is not there", { logitsOf: [2] }],
  ["logits of a negative row", { logitsOf: [-1] }],
  ["rows of logits that fall", { logitsOf: [1, 0] }],
  ["fewer targets than rows of logits", { targets: [1, 2] }],
  ["a target that is not in the vocabulary", { targets: [1, 2, 50] }],
  ["a negative target", { targets: [1, -2, 3] }],
  ["fewer places than rows of logits", { fullPlaces: [0] }],
  ["a place that there is no room for", { fullPlaces: [0, 1, 2] }],
])("a step with %s is a RangeError", (_, change) => {
  expect(() => encodeStep([{ ...ROWS, ...change }], 1, LIMITS)).toThrow(RangeError);
});

test.each<[string, Partial<StepRows>]>([
  ["a token", { tokenIds: [3, NaN] }],
  ["an expert", { experts: [NaN, 0] }],
  ["a position", { position: NaN }],
  ["a position in halves", { position: 0.5 }],
  ["a page", { pages: [NaN, 0] }],
  ["a wanted row", { logitsOf: [NaN] }],
  ["a target", { targets: [1, NaN, 2] }],
  ["a place", { fullPlaces: [0, NaN, 1] }],
  ["a token that is text", { tokenIds: ["3", 4] as unknown as number[] }],
])("%s that is no whole number is a TypeError", (_, change) => {
  expect(() => encodeStep([{ ...ROWS, ...change }], 1, LIMITS)).toThrow(TypeError);
});

test("targets and candidates are the head's outputs, where it has another number of them than there are tokens", () => {
  const limits = { ...LIMITS, numLogits: 7 };
  expect(() => encodeStep([{ ...ROWS, targets: [0, 6, 6] }], 7, limits)).not.toThrow();
  expect(() => encodeStep([{ ...ROWS, targets: [0, 6, 7] }], 7, limits)).toThrow(RangeError);
  expect(() => encodeStep([ROWS], 8, limits)).toThrow(RangeError);
  expect(() => encodeStep([{ ...ROWS, targets: [0, 6, 51] }], 51, { ...LIMITS, numLogits: 52 })).not.toThrow();
});

test("a step needs sequences, fits the kernel's rows, and has at least one candidate and at most all tokens", () => {
  expect(() => encodeStep([], 1, LIMITS)).toThrow(RangeError);
  const many = Array.from({ length: 11 }, () => ROWS);
  expect(() => encodeStep(many, 1, LIMITS)).toThrow(RangeError);
  expect(() => encodeStep(many.slice(1), 1, LIMITS)).not.toThrow();
  for (const count of [0, -1, 51]) expect(() => encodeStep([ROWS], count, LIMITS)).toThrow(RangeError);
  for (const count of [NaN, 1.5]) expect(() => encodeStep([ROWS], count, LIMITS)).toThrow(TypeError);
});
