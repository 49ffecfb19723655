import {
  choiceOption,
  describeValue,
  integerOption,
  nearestName,
  numberOption,
  rejectUnknownKeys,
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
    expect(describeValue("x".repeat(1000)).length).toBeLessThan(100);
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
