// Grammars of number ranges, read as regular expressions and compared with plain comparisons.

import { expect, test } from "vitest";
import { decimalRange, integerRange } from "../../packages/grammar/src/schema/ebnf/number-range.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

/** Reads a rule that consists of literals, character sets, groups, alternatives and repetitions. */
function regularExpression(rule: string): RegExp {
  const source = rule.replaceAll(/"([^"]*)"|\s+/g, (_, literal: string | undefined) =>
    literal === undefined ? "" : `(?:${literal.replaceAll(/[.\\*+?(){}[\]|^$-]/g, String.raw`\$&`)})`,
  );
  return new RegExp(`^(?:${source})$`);
}

test("the integers between two bounds are accepted, and no others", () => {
  const random = seededRandom(1);
  const bounds = [-1000, -999, -110, -100, -99, -19, -10, -9, -1, 0, 1, 8, 9, 10, 11, 90, 99, 100, 101, 250, 999, 1000];
  for (const from of bounds) {
    for (const to of bounds.filter((bound) => bound >= from)) {
      const pattern = regularExpression(integerRange(from, to));
      const values = [from, to].flatMap((bound) => [bound - 1, bound, bound + 1, bound * 10, Math.trunc(bound / 10)]);
      values.push(...Array.from({ length: 10 }, () => randomInteger(random, 2400) - 1200));
      for (const value of values) {
        // There is only one zero.
        expect(pattern.test(String(value + 0)), `${value} in [${from}, ${to}]`).toBe(value >= from && value <= to);
      }
      for (const text of ["", "-", "-0", "01", "+1", "1.0"]) expect(pattern.test(text), text).toBe(false);
    }
  }
});

test("the decimals between two bounds, which may be excluded, are accepted with any zeros behind them", () => {
  const random = seededRandom(2);
  const tenths = [
    -12.5, -10, -1.75, -1.7, -1, -0.5, -0.25, 0, 0.05, 0.25, 0.3, 0.35, 1, 1.7, 1.75, 1.9, 2, 9.99, 10, 12.5,
  ];
  let numEmpty = 0;
  for (const from of tenths) {
    for (const to of tenths.filter((bound) => bound >= from)) {
      for (const [isFromOpen, isToOpen] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ] as const) {
        const what = `${isFromOpen ? "(" : "["}${from}, ${to}${isToOpen ? ")" : "]"}`;
        const rule = decimalRange({ from, to, isFromOpen, isToOpen });
        if (rule === undefined) {
          expect(from === to && (isFromOpen || isToOpen), what).toBe(true);
          numEmpty++;
          continue;
        }
        const pattern = regularExpression(rule);
        const near = [from, to].flatMap((bound) =>
          [-1, -0.1, -0.01, -0.001, 0, 0.001, 0.01, 0.1, 1].map((by) => bound + by),
        );
        const others = Array.from({ length: 8 }, () => (randomInteger(random, 4000) - 2000) / 100);
        for (const value of [...near, ...others].map((one) => Math.round(one * 1000) / 1000 + 0)) {
          const isIn = (isFromOpen ? value > from : value >= from) && (isToOpen ? value < to : value <= to);
          for (const text of new Set([String(value), value.toFixed(3)])) {
            if (text.startsWith("-0") && value === 0) continue;
            expect(pattern.test(text), `${text} in ${what}`).toBe(isIn);
          }
        }
        for (const text of ["", ".", "1.", ".5", "00.5", "1e0"]) expect(pattern.test(text), text).toBe(false);
      }
    }
  }
  expect(numEmpty).toBe(3 * tenths.length);
});
