import type { PreGatingRouter } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { Passage, PassageScores } from "./passage.ts";
import { type PassageOptions, passagesOf, wholeSequences } from "./passages.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";
import type { StepRunner } from "../step-runner.ts";

/** Of `evaluate`: how the text is cut into passages, and how they are scored. */
export type EvaluateOptions = PassageOptions & ScoreOptions;

/** How well a model predicts a text. */
export interface Evaluation {
  /** Mean loss in nats over all predicted tokens. */
  readonly loss: number;
  /** `exp(loss)` */
  readonly perplexity: number;
  /** Predicted tokens. */
  readonly tokens: number;
  readonly sequences: number;
}

/**
 * A model's loss on documents: each is tokenised without special tokens and ended by the end-of-text token, all are
 * joined and cut into sequences of `sequenceLength`, and each token but a sequence's first is predicted from those
 * before it in the sequence. A text too short for one sequence is one shorter sequence. With `stride`, overlapping
 * windows take the place of sequences: see `PassageOptions`.
 *
 * @throws {RangeError} when the documents have fewer than two tokens
 */
export async function evaluate(
  runner: StepRunner,
  router: PreGatingRouter,
  tokenizer: Tokenizer,
  documents: Iterable<string>,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  return evaluatePassages(runner, router, passagesOf(runner.model, tokenizer, documents, options), options);
}

/** `evaluate`, with the sequences made already. @param sequences - at least one, each of at least two tokens */
export async function evaluateSequences(
  runner: StepRunner,
  router: PreGatingRouter,
  sequences: readonly Int32Array[],
  options: ScoreOptions = {},
): Promise<Evaluation> {
  return evaluatePassages(runner, router, wholeSequences(sequences), options);
}

/** `evaluate`, with the passages made already. @param passages - at least one */
export async function evaluatePassages(
  runner: StepRunner,
  router: PreGatingRouter,
  passages: readonly Passage[],
  options: ScoreOptions = {},
): Promise<Evaluation> {
  const groups = passages.map((passage) => [passage]);
  return evaluationOf(await scorePassages(runner, router, groups, options));
}

export function evaluationOf(scores: readonly PassageScores[]): Evaluation {
  let sum = 0;
  let tokens = 0;
  for (const { logProbs } of scores) {
    for (const logProb of logProbs) sum -= logProb;
    tokens += logProbs.length;
  }
  const loss = sum / tokens;
  return { loss, perplexity: Math.exp(loss), tokens, sequences: scores.length };
}
