import type { PreGatingRouter } from "@readme-moe/core";
import { fixedRouter } from "@readme-moe/router";
import type { ModelRunner } from "../model-runner.ts";
import { type Evaluation, evaluationOf } from "./evaluate.ts";
import type { Passage } from "./passage.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";

/** What routing is worth on one text. */
export interface ExpertEvaluation {
  /** `undefined` without a router. */
  readonly routed: RoutedEvaluation | undefined;
  /** With one expert for every token, by expert. */
  readonly fixed: readonly Evaluation[];
  /** The fixed expert with the least loss; the lower index among equals. */
  readonly bestExpert: number;
}

export interface RoutedEvaluation extends Evaluation {
  /** The router's loss less that of the best fixed expert, in nats; below 0 where choosing by token pays. */
  readonly cost: number;
  /** Of the tokens, by expert; they sum to 1. */
  readonly shares: readonly number[];
  /** Share of tokens whose expert is that of the token before, of those with one before; 1 where there are none. */
  readonly locality: number;
}

/** A model's loss on passages with its router, and with each of its experts. @param passages - at least one */
export async function evaluatePerExpert(
  runner: ModelRunner,
  router: PreGatingRouter | undefined,
  passages: readonly Passage[],
  options: ScoreOptions = {},
): Promise<ExpertEvaluation> {
  const groups = passages.map((passage) => [passage]);
  const numExperts = runner.model.experts.names.length;
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

/** @param routes - experts of each sequence's tokens */
export function routeStatistics(
  routes: readonly ArrayLike<number>[],
  numExperts: number,
): Pick<RoutedEvaluation, "shares" | "locality"> {
  const counts = new Float64Array(numExperts);
  let [numTokens, numFollowing, numKept] = [0, 0, 0];
  for (const experts of routes) {
    for (let token = 0; token < experts.length; token++) {
      const expert = experts[token] as number;
      counts[expert] = (counts[expert] as number) + 1;
      if (token > 0 && expert === experts[token - 1]) numKept++;
    }
    numTokens += experts.length;
    numFollowing += Math.max(0, experts.length - 1);
  }
  return {
    shares: Array.from(counts, (count) => count / numTokens),
    locality: numFollowing > 0 ? numKept / numFollowing : 1,
  };
}
