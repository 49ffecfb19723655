// A model's loss on texts, with its router and with each of its experts.

import { integerOption, type PreGatingRouter } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { fixedRouter, routeStatistics, type RouteStatistics } from "@readme-moe/router";
import type { StepRunner } from "../step-runner.ts";
import {
  type Choice,
  choicePassage,
  type Passage,
  type PassageOptions,
  type PassageScores,
  passagesOf,
  wholeSequences,
} from "./passages.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";

/** The model under evaluation. */
export interface EvaluatedModel {
  readonly runner: StepRunner;
  /** Chooses the experts of all tokens. */
  readonly router: PreGatingRouter;
}

/** Options of `evaluate`: how the text is cut into passages, and how they are scored. */
export type EvaluateOptions = PassageOptions & ScoreOptions;

/** A model's loss on a text. */
export interface Evaluation {
  /** Mean loss in nats over all predicted tokens. */
  readonly loss: number;
  readonly perplexity: number;
  /** Number of predicted tokens. */
  readonly tokens: number;
  readonly sequences: number;
}

/**
 * Computes a model's loss on documents. Each document is tokenized without special tokens and ended by the end-of-text
 * token; all are joined and cut into sequences of `sequenceLength`. Each token but a sequence's first is predicted
 * from those before it in the sequence. A text that is too short for one sequence is one shorter sequence. With
 * `stride`, overlapping windows replace the sequences, see `PassageOptions`.
 *
 * @throws {RangeError} if the documents have fewer than two tokens
 */
export async function evaluate(
  model: EvaluatedModel,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  return evaluatePassages(model, passagesOf(model.runner.model, tokenizer, documents, options), options);
}

/** Computes a model's loss on token sequences. @param sequences - at least one, each of at least two tokens */
export async function evaluateSequences(
  model: EvaluatedModel,
  sequences: readonly Int32Array[],
  options: ScoreOptions = {},
): Promise<Evaluation> {
  return evaluatePassages(model, wholeSequences(sequences), options);
}

/** Computes a model's loss on passages. @param passages - at least one */
export async function evaluatePassages(
  { runner, router }: EvaluatedModel,
  passages: readonly Passage[],
  options: ScoreOptions = {},
): Promise<Evaluation> {
  const groups = passages.map((passage) => [passage]);
  return evaluationOf(await scorePassages(runner, router, groups, options));
}

function evaluationOf(scores: readonly PassageScores[]): Evaluation {
  let sum = 0;
  let tokens = 0;
  for (const { logProbs } of scores) {
    for (const logProb of logProbs) sum -= logProb;
    tokens += logProbs.length;
  }
  const loss = sum / tokens;
  return { loss, perplexity: Math.exp(loss), tokens, sequences: scores.length };
}

/** Losses of a text with the router and with single experts. */
export interface ExpertEvaluation {
  /** `undefined` without a router. */
  readonly routed: RoutedEvaluation | undefined;
  /** Evaluations with one expert for every token, by expert. */
  readonly fixed: readonly Evaluation[];
  /** The fixed expert with the least loss; the lower index among equals. */
  readonly bestExpert: number;
}

/** The loss with the model's own router, the shares of its experts, and whether routing pays. */
export interface RoutedEvaluation extends Evaluation, RouteStatistics {
  /** The router's loss minus that of the best fixed expert, in nats; below 0 if routing by token pays. */
  readonly cost: number;
}

/** Computes a model's loss on passages with its router and with each of its experts. @param passages - at least one */
export async function evaluatePerExpert(
  runner: StepRunner,
  router: PreGatingRouter | undefined,
  passages: readonly Passage[],
  options: ScoreOptions = {},
): Promise<ExpertEvaluation> {
  const groups = passages.map((passage) => [passage]);
  const numExperts = runner.expertNames.length;
  const numParts = numExperts + (router ? 1 : 0);
  const partOptions = (part: number): ScoreOptions => ({
    ...options,
    onProgress: ({ sequences, of }) => options.onProgress?.({ sequences: part * of + sequences, of: numParts * of }),
  });
  const fixed: Evaluation[] = [];
  for (let expert = 0; expert < numExperts; expert++) {
    const scores = await scorePassages(runner, fixedRouter(numExperts, expert), groups, partOptions(expert));
    fixed.push(evaluationOf(scores));
  }
  const losses = fixed.map(({ loss }) => loss);
  const leastLoss = Math.min(...losses);
  const bestExpert = losses.indexOf(leastLoss);
  if (!router) return { routed: undefined, fixed, bestExpert };
  const scores = await scorePassages(runner, router, groups, partOptions(numExperts));
  const routed = evaluationOf(scores);
  const routes = scores.map(({ experts }) => experts);
  return {
    routed: { ...routed, cost: routed.loss - leastLoss, ...routeStatistics(routes, numExperts) },
    fixed,
    bestExpert,
  };
}

// Multiple choice: the share of questions whose right answer a model finds the most likely.

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
