// The checks that compare sampling defaults.

import { expect, test } from "vitest";
import { judge, repeatedShare, summarize, type Verdict } from "../../bench/defaults/judge.ts";
import { QUESTIONS } from "../../bench/defaults/questions.ts";
import { seededRandom } from "@readme-moe/core";

const FRANCE = { text: "What is the capital of France?", right: /\bparis\b/i };

test.each([
  ["The capital of France is Paris.", "stop", { isRight: true, repeated: 0, ends: true, staysInLanguage: true }],
  ["It is Lyon, in the région of Rhône.", "stop", { isRight: false, repeated: 0, ends: true, staysInLanguage: true }],
  ["Paris, 巴黎", "length", { isRight: true, repeated: 0, ends: false, staysInLanguage: false }],
  ["Parisian \uFFFD", "stop", { isRight: false, repeated: 0, ends: true, staysInLanguage: false }],
  ["", "stop", { isRight: false, repeated: 0, ends: true, staysInLanguage: true }],
] as const)("%j, ended by %s", (text, finishReason, verdict) => {
  expect(judge(FRANCE, { text, finishReason })).toEqual(verdict);
});

test("the share of repeated groups is that of a plain count, for random words", () => {
  const random = seededRandom(7);
  for (let round = 0; round < 200; round++) {
    const words = Array.from({ length: Math.floor(random() * 30) }, () => "abc"[Math.floor(random() * 3)]);
    let [groups, repeats] = [0, 0];
    for (let at = 0; at + 4 <= words.length; at++) {
      groups++;
      for (let before = 0; before < at; before++) {
        if ([0, 1, 2, 3].every((step) => words[before + step] === words[at + step])) {
          repeats++;
          break;
        }
      }
    }
    expect(repeatedShare(words.join(" "))).toBeCloseTo(groups === 0 ? 0 : repeats / groups, 12);
  }
});

test("a summary has the means, and the standard error over seeds", () => {
  const right: Verdict = { isRight: true, repeated: 0, ends: true, staysInLanguage: true };
  const wrong: Verdict = { isRight: false, repeated: 0.5, ends: true, staysInLanguage: true };
  const rightButLong: Verdict = { ...right, ends: false };
  const summary = summarize([
    [right, rightButLong],
    [wrong, wrong],
  ]);
  expect(summary).toMatchObject({
    numAnswers: 4,
    right: 0.5,
    repeated: 0.25,
    ends: 0.75,
    staysInLanguage: 1,
    good: 0.25,
  });
  // Two seeds with 1 and 0: the deviation is the root of a half, over the root of two.
  expect(summary.rightError).toBeCloseTo(0.5, 12);
});

test("no question contains its own answer", () => {
  expect(QUESTIONS).toHaveLength(20);
  for (const { text, right } of QUESTIONS) expect(text).not.toMatch(right);
});
