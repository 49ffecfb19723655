import { integerOption, type PreGatingRouter } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { type Choice, choicePassage } from "./choice-passage.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";
import type { StepRunner } from "../step-runner.ts";

/** A question, its answers, and which of them is right. */
export interface Question {
  /** At least one. */
  readonly choices: readonly Choice[];
  /** Index of the right one. */
  readonly answer: number;
}

/** Of `evaluateMultipleChoice`. */
export interface MultipleChoiceOptions extends ScoreOptions {
  /** Tokens that the model sees of context and continuation, the last ones. @default the model's context */
  readonly maxTokens?: number | undefined;
}

/** How likely the model finds one question's choices. `chosen` and `chosenByLength` are indices of them. */
export interface QuestionScores {
  /** Log-likelihood of each continuation given its context, in nats. */
  readonly logLikelihoods: readonly number[];
  /** The likeliest choice, and the likeliest per character; the lower index among equals. */
  readonly chosen: number;
  readonly chosenByLength: number;
}

/** A share of right answers, in `[0, 1]`. */
export interface Accuracy {
  readonly value: number;
  /** Standard error of the mean, from the sample's variance; `undefined` for a single question. */
  readonly standardError: number | undefined;
}

/** How often the likeliest choice is the right one. */
export interface MultipleChoiceEvaluation {
  readonly accuracy: Accuracy;
  /** With log-likelihoods divided by the continuations' lengths; known as `acc_norm`. */
  readonly normalizedAccuracy: Accuracy;
  /** By question. */
  readonly questions: readonly QuestionScores[];
  /** Choices whose contexts had to be cut to fit. */
  readonly numCut: number;
}

/**
 * How often a model finds the right answer the likeliest.
 * @throws {RangeError} when there is no question, or one without choices or with an `answer` that is none of them
 */
export async function evaluateMultipleChoice(
  runner: StepRunner,
  router: PreGatingRouter,
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
  let numSeen = 0;
  const scored = questions.map(({ choices }) => {
    numSeen += choices.length;
    return questionScores(choices, sums.slice(numSeen - choices.length, numSeen));
  });
  return {
    accuracy: accuracyOf(scored.map(({ chosen }, index) => chosen === questions[index]?.answer)),
    normalizedAccuracy: accuracyOf(scored.map((one, index) => one.chosenByLength === questions[index]?.answer)),
    questions: scored,
    numCut: groups.flat().filter(({ numCutTokens }) => numCutTokens > 0).length,
  };
}

function questionScores(choices: readonly Choice[], logLikelihoods: readonly number[]): QuestionScores {
  const byLength = logLikelihoods.map((sum, index) => sum / lengthOf(choices[index] as Choice));
  return { logLikelihoods, chosen: indexOfLargest(logLikelihoods), chosenByLength: indexOfLargest(byLength) };
}

/** In characters, without the space that harnesses put between context and answer. */
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
