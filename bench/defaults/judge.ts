// Checks of an answer that a program can make.

import type { FinishReason } from "@readme-moe/core";
import type { Question } from "./questions.ts";

/** A finished answer. */
export interface Answer {
  readonly text: string;
  readonly finishReason: FinishReason | undefined;
}

/** Results of the checks of an answer. */
export interface Verdict {
  readonly isRight: boolean;
  /** Share of its groups of four words that it has had before. */
  readonly repeated: number;
  /** Whether it ended by itself, not at the largest number of tokens. */
  readonly ends: boolean;
  /** Whether all its letters are Latin, as those of the questions. */
  readonly staysInLanguage: boolean;
}

const GROUP_WORDS = 4;

export function judge({ right }: Question, { text, finishReason }: Answer): Verdict {
  return {
    isRight: right.test(text),
    repeated: repeatedShare(text),
    ends: finishReason === "stop",
    staysInLanguage: !/(?!\p{Script=Latin})\p{L}|\uFFFD/u.test(text),
  };
}

/** Returns the share of groups of four words that occur earlier in a text. */
export function repeatedShare(text: string): number {
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const groups = words.slice(GROUP_WORDS - 1).map((_, index) => words.slice(index, index + GROUP_WORDS).join(" "));
  return groups.length === 0 ? 0 : 1 - new Set(groups).size / groups.length;
}

/** Means of verdicts over all answers. */
export interface Summary {
  readonly numAnswers: number;
  readonly right: number;
  /** Standard error of `right` over the seeds; `undefined` for one. */
  readonly rightError: number | undefined;
  readonly repeated: number;
  readonly ends: number;
  readonly staysInLanguage: number;
  /** Share of answers that are right, end by themselves, repeat nothing and stay in the language. */
  readonly good: number;
}

/** Adds verdicts up. @param runs - the verdicts of each seed on all questions */
export function summarize(runs: readonly (readonly Verdict[])[]): Summary {
  const all = runs.flat();
  const shareOf = (of: (verdict: Verdict) => number | boolean, verdicts: readonly Verdict[] = all): number =>
    verdicts.reduce((sum, verdict) => sum + Number(of(verdict)), 0) / verdicts.length;
  const right = shareOf(({ isRight }) => isRight);
  const squares = runs.reduce((sum, run) => sum + (shareOf(({ isRight }) => isRight, run) - right) ** 2, 0);
  return {
    numAnswers: all.length,
    right,
    rightError: runs.length > 1 ? Math.sqrt(squares / (runs.length - 1) / runs.length) : undefined,
    repeated: shareOf(({ repeated }) => repeated),
    ends: shareOf(({ ends }) => ends),
    staysInLanguage: shareOf((verdict) => verdict.staysInLanguage),
    good: shareOf(
      ({ isRight, repeated, ends, staysInLanguage }) => isRight && repeated === 0 && ends && staysInLanguage,
    ),
  };
}
