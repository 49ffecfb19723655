// Alternatives that exclude each other, against plain validation of small values.

import { expect, test } from "vitest";
import { Budget } from "../../packages/grammar/src/grammar-source.ts";
import { Exclusion } from "../../packages/grammar/src/schema/types.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

type Part = Readonly<Record<string, unknown>>;

function isDisjoint(...parts: readonly Part[]): boolean {
  return new Exclusion({ resolve: (part) => part, isNarrowed: () => false }, new Budget()).isDisjoint(parts);
}

const anObject = (marks: Readonly<Record<string, readonly unknown[]>>, required = Object.keys(marks)): Part => ({
  type: "object",
  properties: Object.fromEntries(Object.entries(marks).map(([name, values]) => [name, { enum: values }])),
  required,
});

test.each<[boolean, ...Part[]]>([
  [true, { type: "string" }],
  [true, { type: "string" }, { type: "number" }],
  [true, { type: "string" }, { type: "number" }, { type: "null" }],
  [false, { type: "string" }, { type: "number" }, { type: "string" }],
  [false, { type: "integer" }, { type: "number" }],
  [true, { enum: ["a", 1] }, { enum: ["b", 2] }],
  [false, { enum: ["a", 1] }, { enum: ["b", 1] }],
  [true, { enum: ["a"] }, { type: "number" }],
  [false, { enum: ["a", 1] }, { type: "number" }],
  [true, { enum: [null] }, { type: "object" }],
  [false, { enum: [null] }, { type: "null" }],
  [true, { anyOf: [{ type: "string" }, { type: "number" }] }, { type: "boolean" }],
  [false, { anyOf: [{ type: "string" }, { type: "number" }] }, { type: "number" }],
  [false, { anyOf: [{ type: "string" }, {}] }, { type: "boolean" }],
  [false, {}, { type: "boolean" }],
  [true, anObject({ kind: ["a"] }), anObject({ kind: ["b"] }), { type: "string" }],
  [false, anObject({ kind: ["a"] }), { type: "object" }],
  [false, anObject({ kind: ["a"] }), anObject({ kind: ["b"] }, [])],
  [false, anObject({}), anObject({})],
])("%s for %j", (expected, ...parts) => {
  expect(isDisjoint(...parts)).toBe(expected);
  expect(isDisjoint(...parts.toReversed())).toBe(expected);
});

test("a part that is not known, or that allowed more types, excludes nothing", () => {
  const [text, number] = [{ type: "string" }, { type: "number" }];
  const parts = [text, number];
  const unknown = { resolve: (part: Part) => (part === text ? undefined : part), isNarrowed: () => false };
  expect(new Exclusion(unknown, new Budget()).isDisjoint(parts)).toBe(false);
  const narrowed = { resolve: (part: Part) => part, isNarrowed: (part: Part) => part === text };
  expect(new Exclusion(narrowed, new Budget()).isDisjoint(parts)).toBe(false);
  const same = { resolve: () => number, isNarrowed: () => false };
  expect(new Exclusion(same, new Budget()).isDisjoint(parts)).toBe(false);
});

type Marks = Readonly<Record<string, readonly number[]>>;

/** Whether both objects have a property of which no value is allowed in both. */
function areApart(one: Marks, other: Marks): boolean {
  return Object.entries(one).some(
    ([name, values]) => other[name] && !values.some((value) => other[name]?.includes(value)),
  );
}

test("objects exclude each other if each pair has a required property with different values", () => {
  const random = seededRandom(8);
  const found = { true: 0, false: 0 };
  for (let round = 0; round < 3000; round++) {
    const all = Array.from({ length: 2 + randomInteger(random, 3) }, () => {
      const names = ["p", "q", "r"].filter(() => random() < 0.7);
      return Object.fromEntries(names.map((name) => [name, [1, 2, 3, 4].filter(() => random() < 0.35)]));
    });
    const expected = all.every((one, index) => all.slice(index + 1).every((other) => areApart(one, other)));
    expect(isDisjoint(...all.map((marks) => anObject(marks))), JSON.stringify(all)).toBe(expected);
    found[`${expected}`]++;
  }
  expect(Math.min(found.true, found.false)).toBeGreaterThan(200);
});

test("lists of values exclude each other if no two have a value in common", () => {
  const random = seededRandom(9);
  const values = ["a", "b", 1, 2, null, true, "1"];
  for (let round = 0; round < 1000; round++) {
    const lists = Array.from({ length: 2 + randomInteger(random, 2) }, () => values.filter(() => random() < 0.3));
    const all = lists.flat();
    expect(isDisjoint(...lists.map((list) => ({ enum: list }))), JSON.stringify(lists)).toBe(
      new Set(all).size === all.length,
    );
  }
});
