// A model's loss on texts, with its router and with each of its experts.

import type { PreGatingRouter } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { fixedRouter, routeStatistics, type RouteStatistics } from "@readme-moe/router";
import type { StepRunner } from "../step-runner.ts";
import { type Passage, type PassageOptions, type PassageScores, passagesOf, wholeSequences } from "./passages.ts";
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
  /** `exp(loss)` */
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
