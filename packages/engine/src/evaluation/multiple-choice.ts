// How often a model finds the right answer of a question the most likely.

import { integerOption } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { EvaluatedModel } from "./evaluate.ts";
import { type Choice, choicePassage } from "./passages.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";

/** A question with its possible answers, one of which is right. */
export interface Question {
  /** The possible answers, at least one. */
  readonly choices: readonly Choice[];
  /** Index of the right choice. */
  readonly answer: number;
}

/** Options of `evaluateMultipleChoice`. */
export interface MultipleChoiceOptions extends ScoreOptions {
  /** Largest number of tokens of context and continuation; earlier ones are left out. @default the model's context */
  readonly maxTokens?: number | undefined;
}

/** Likelihoods of one question's choices. `chosen` and `chosenByLength` are indices of choices. */
export interface QuestionScores {
  /** Log-likelihood of each continuation given its context, in nats. */
  readonly logLikelihoods: readonly number[];
  /** The most likely choice; the lower index among equals. */
  readonly chosen: number;
  /** The most likely choice per character; the lower index among equals. */
  readonly chosenByLength: number;
}

/** Share of right answers, in `[0, 1]`. */
export interface Accuracy {
  readonly value: number;
  /** Standard error of the mean, from the sample's variance; `undefined` for a single question. */
  readonly standardError: number | undefined;
}

/** Result of `evaluateMultipleChoice`. */
export interface MultipleChoiceEvaluation {
  /** Accuracy of the most likely choice. */
  readonly accuracy: Accuracy;
  /** Accuracy of the most likely choice per character; known as `acc_norm`. */
  readonly normalizedAccuracy: Accuracy;
  /** Scores by question. */
  readonly questions: readonly QuestionScores[];
  /** Number of choices whose contexts had to be cut to fit. */
  readonly numCut: number;
}

/**
 * Measures how often a model finds the right answer the most likely.
 * @throws {RangeError} if there is no question, or one without choices or with an `answer` that is not one of them
 */
export async function evaluateMultipleChoice(
  { runner, router }: EvaluatedModel,
  tokenizer: Tokenizer,
  questions: readonly Question[],
  options: MultipleChoiceOptions = {},
): Promise<MultipleChoiceEvaluation> {
  if (questions.length === 0) throw new RangeError("Expected `questions` to hold at least one question, got none");
  for (const { choices, answer } of questions) integerOption("answer", answer, 0, choices.length - 1);
  const { contextTokens } = runner.model.config;
  const maxTokens = integerOption("maxTokens", options.maxTokens ?? contextTokens, 1, contextTokens);
  const groups = questions.map(({ choices }) =>
    choices.map((choice) => choicePassage(runner.model, tokenizer, choice, maxTokens)),
  );
  const scores = await scorePassages(runner, router, groups, options);
  const sums = scores.map(({ logProbs }) => logProbs.reduce((sum, logProb) => sum + logProb, 0));
  const scored = questions.map(({ choices }) => questionScores(choices, sums.splice(0, choices.length)));
  return {
    accuracy: accuracyOf(scored.map(({ chosen }, index) => chosen === questions[index]?.answer)),
    normalizedAccuracy: accuracyOf(scored.map((one, index) => one.chosenByLength === questions[index]?.answer)),
    questions: scored,
    numCut: groups.flat().filter(({ numCutTokens }) => numCutTokens > 0).length,
  };
}

function questionScores(choices: readonly Choice[], logLikelihoods: readonly number[]): QuestionScores {
  const byLength = choices.map((choice, index) => (logLikelihoods[index] ?? -Infinity) / lengthOf(choice));
  return { logLikelihoods, chosen: indexOfLargest(logLikelihoods), chosenByLength: indexOfLargest(byLength) };
}

/** Counts the characters of an answer, without the space that harnesses put between context and answer. */
function lengthOf({ continuation }: Choice): number {
  const answer = continuation.startsWith(" ") ? continuation.slice(1) : continuation;
  return Math.max(1, Array.from(answer).length);
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

function accuracyOf(areRight: readonly boolean[]): Accuracy {
  const count = areRight.length;
  const value = areRight.filter(Boolean).length / count;
  return { value, standardError: count > 1 ? Math.sqrt((value * (1 - value)) / (count - 1)) : undefined };
}
