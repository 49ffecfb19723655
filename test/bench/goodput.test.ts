// Figures of an open loop's answers.

import { describe, expect, test } from "vitest";
import type { Answer } from "../../bench/express/client.ts";
import { goodputFigures, isAnswered, perTokenMs, tokensPerSecond } from "../../bench/server/goodput.ts";

const GOOD: Answer = {
  status: 200,
  id: "",
  completionTokens: 11,
  finishReason: "length",
  firstMs: 100,
  totalMs: 600,
  isWhole: true,
  errorCode: undefined,
  tail: "",
};
const LIMITS = { firstMs: 200, perTokenMs: 60 };

describe("goodput", () => {
  test("counts answers within both limits per second", () => {
    const answers: readonly Answer[] = [
      GOOD,
      { ...GOOD, firstMs: 200, totalMs: 800 },
      { ...GOOD, firstMs: 201 },
      { ...GOOD, totalMs: 701 },
      { ...GOOD, status: 503, isWhole: false, errorCode: "server_overloaded" },
      { ...GOOD, isWhole: false },
      { ...GOOD, status: 0 },
      { ...GOOD, errorCode: "server_error" },
    ];
    const valueOf = (metric: string) =>
      goodputFigures(4, answers, 2, LIMITS).find((one) => one.metric === metric)?.value;
    expect(answers.filter(isAnswered)).toHaveLength(4);
    expect(valueOf("goodput, requests/s")).toBe(1);
    expect(valueOf("kept to the limits, %")).toBe(25);
    expect(valueOf("not answered, %")).toBe(50);
    expect(valueOf("first token p50, ms")).toBe(100);
    expect(valueOf("first token p99, ms")).toBe(201);
    expect(valueOf("per token p95, ms")).toBe(60.1);
  });

  test("has no latencies without answers", () => {
    const figures = goodputFigures(4, [{ ...GOOD, status: 0 }], 2, LIMITS);
    expect(figures.map(({ metric }) => metric)).toEqual([
      "goodput, requests/s",
      "kept to the limits, %",
      "not answered, %",
    ]);
    expect(goodputFigures(4, [], 2, LIMITS)[0]?.value).toBe(0);
  });

  test("has no time per further token for an answer of one token", () => {
    expect(perTokenMs({ ...GOOD, completionTokens: 1 })).toBe(0);
    expect(perTokenMs(GOOD)).toBe(50);
  });
});

test("computes speed over all answers, and rejects a missing one", () => {
  expect(tokensPerSecond([GOOD, GOOD], 2000)).toBe(11);
  expect(() => tokensPerSecond([GOOD, { ...GOOD, status: 503, errorCode: "x" }], 2000)).toThrow(/got 503 x/);
});
