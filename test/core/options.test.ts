import {
  choiceOption,
  describeValue,
  expertIndex,
  functionOption,
  integerOption,
  nearestName,
  numberOption,
  rejectUnknownKeys,
  switchOption,
  textOption,
  tokenIdsOption,
} from "@readme-moe/core";
import { describe, expect, test } from "vitest";

describe("a rejected value", () => {
  test.each([
    [undefined, "`undefined`"],
    [null, "`null`"],
    ["text", '`"text"` (string)'],
    [-1, "`-1` (number)"],
    [Number.NaN, "`NaN` (number)"],
    [5n, "`5` (bigint)"],
    [true, "`true` (boolean)"],
    [[1, 2], "`[…]` (array)"],
    [{ a: 1 }, "`{…}` (object)"],
  ])("%o", (value, shown) => {
    expect(describeValue(value)).toBe(shown);
  });

  test("is cut to one line", () => {
    expect(describeValue("x".repeat(80))).toBe(`\`"${"x".repeat(80)}"\` (string)`);
    expect(describeValue("x".repeat(81))).toBe(`\`"${"x".repeat(80)}…"\` (string)`);
  });
});

test("checks integers for type and range", () => {
  expect(integerOption("threads", 4, 1, 8)).toBe(4);
  expect(() => integerOption("threads", 4.5, 1)).toThrow(
    new TypeError("Expected `threads` to be an integer, got `4.5` (number)"),
  );
  expect(() => integerOption("threads", "4", 1)).toThrow(TypeError);
  expect(() => integerOption("threads", Number.NaN, 1)).toThrow(TypeError);
  expect(() => integerOption("threads", 0, 1)).toThrow(
    new RangeError("Expected `threads` to be at least 1, got `0` (number)"),
  );
  expect(() => integerOption("threads", 9, 1, 8)).toThrow(/from 1 to 8/);
});

test("checks numbers for type and range", () => {
  expect(numberOption("prefillShare", 0.5, 0, 1)).toBe(0.5);
  expect(() => numberOption("prefillShare", "0.5", 0, 1)).toThrow(
    new TypeError('Expected `prefillShare` to be a number, got `"0.5"` (string)'),
  );
  expect(() => numberOption("prefillShare", Number.NaN, 0, 1)).toThrow(TypeError);
  expect(() => numberOption("prefillShare", 1.5, 0, 1)).toThrow(/from 0 to 1/);
  expect(() => numberOption("maxDelayMs", -1, 0)).toThrow(/at least 0/);
});

test("checks texts, switches, functions and token ids, and names what is wrong", () => {
  expect(textOption("client", "a")).toBe("a");
  expect(() => textOption("client", 5)).toThrow(new TypeError("Expected `client` to be a text, got `5` (number)"));
  expect(switchOption("stream", false)).toBe(false);
  expect(() => switchOption("stream", "no")).toThrow('Expected `stream` to be true or false, got `"no"` (string)');
  expect(functionOption("hook", undefined)).toBeUndefined();
  expect(() => functionOption("hook", null)).toThrow("Expected `hook` to be a function, got `null`");
  expect(tokenIdsOption("prompt", Uint8Array.of(0, 9), 10)).toEqual(Int32Array.of(0, 9));
  expect(() => tokenIdsOption("prompt", [0, 10], 10)).toThrow("Expected `prompt[1]` to be from 0 to 9, got `10`");
  expect(() => tokenIdsOption("prompt", { length: 1 }, 10)).toThrow("Expected `prompt[0]` to be an integer");
});

test("checks choices and suggests a similar one", () => {
  expect(choiceOption("precision", "fp32", ["fp32", "int8"])).toBe("fp32");
  expect(() => choiceOption("precision", "fp23", ["fp32", "int8"])).toThrow(
    /one of "fp32", "int8", got `"fp23"`.*mean "fp32"/,
  );
  expect(() => choiceOption("precision", 8, ["fp32", "int8"])).toThrow(TypeError);
});

test("rejects unknown keys and suggests a similar name if there is one", () => {
  const known = ["threads", "cacheFolder"];
  expect(() => rejectUnknownKeys("the runner", { threads: 1 }, known)).not.toThrow();
  expect(() => rejectUnknownKeys("the runner", { thread: 1 }, known)).toThrow(
    /`thread` of the runner, did you mean `threads`/,
  );
  expect(() => rejectUnknownKeys("the runner", { zzz: 1 }, known)).toThrow(
    new TypeError("Unknown option `zzz` of the runner"),
  );
  expect(nearestName("x", [])).toBeUndefined();
});

test.each([
  [() => integerOption("n", 9, 1, 8), RangeError, "Expected `n` to be from 1 to 8, got `9` (number)"],
  [() => integerOption("n", 0, 1, 8), RangeError, "Expected `n` to be from 1 to 8, got `0` (number)"],
  [() => integerOption("n", undefined, 1), TypeError, "Expected `n` to be an integer, got `undefined`"],
  [() => numberOption("n", 2.5, 0, 2), RangeError, "Expected `n` to be from 0 to 2, got `2.5` (number)"],
  [() => numberOption("n", -0.5, 0), RangeError, "Expected `n` to be at least 0, got `-0.5` (number)"],
  [() => choiceOption("n", 8, ["fp32"]), TypeError, 'Expected `n` to be one of "fp32", got `8` (number)'],
  [
    () => choiceOption("n", "int", ["fp32", "int8"]),
    TypeError,
    'Expected `n` to be one of "fp32", "int8", got `"int"` (string); did you mean "int8"?',
  ],
  [
    () => rejectUnknownKeys("it", { thread: 1 }, ["threads"]),
    TypeError,
    "Unknown option `thread` of it, did you mean `threads`?",
  ],
  [
    () => expertIndex(["law", "code"], "lay"),
    RangeError,
    'Expected `expert` to be one of law, code, or an index below 2, got `"lay"` (string); did you mean law?',
  ],
  [
    () => expertIndex(["law", "code"], 2),
    RangeError,
    "Expected `expert` to be one of law, code, or an index below 2, got `2` (number)",
  ],
])("a refusal names the option, what is expected and the value (%#)", (call, kind, message) => {
  expect(call).toThrow(new kind(message));
});

test("the ends of a range are allowed", () => {
  expect([1, 8].map((value) => integerOption("n", value, 1, 8))).toEqual([1, 8]);
  expect([0, 0.5, 2].map((value) => numberOption("n", value, 0, 2))).toEqual([0, 0.5, 2]);
  expect(numberOption("n", Infinity, 0)).toBe(Infinity);
  expect(integerOption("n", Number.MAX_SAFE_INTEGER, 0)).toBe(Number.MAX_SAFE_INTEGER);
  expect(() => integerOption("n", 2 ** 53, 0)).toThrow("at least 0");
});

test.each([
  ["thread", "threads"],
  ["THREADS", "threads"],
  ["thr", undefined],
  ["kacheFoltar", "cacheFolder"],
  ["cacheFld", undefined],
])("the name that %s is a misspelling of is %s", (name, near) => {
  expect(nearestName(name, ["threads", "cacheFolder"])).toBe(near);
});

test("experts are found by name first, then by index", () => {
  const names = ["law", "2", "code"];
  const found = ["law", "2", 2, "code", 0, "0", 1, "1"].map((choice) => expertIndex(names, choice));
  expect(found).toEqual([0, 1, 1, 2, 0, 0, 1, 1]);
  for (const choice of ["3", 3, -1, 0.5, "-1", "1.0", " 1", "", "x1", "1x"]) {
    expect(() => expertIndex(names, choice), `${choice}`).toThrow(RangeError);
  }
});
