import type { PreGatingRouter } from "@readme-moe/core";
import { fixedRouter, routeStatistics, type RouteStatistics } from "@readme-moe/router";
import { type Evaluation, evaluationOf } from "./evaluate.ts";
import type { Passage } from "./passage.ts";
import { type ScoreOptions, scorePassages } from "./score-passages.ts";
import type { StepRunner } from "../step-runner.ts";

/** What routing is worth on one text. */
export interface ExpertEvaluation {
  /** `undefined` without a router. */
  readonly routed: RoutedEvaluation | undefined;
  /** With one expert for every token, by expert. */
  readonly fixed: readonly Evaluation[];
  /** The fixed expert with the least loss; the lower index among equals. */
  readonly bestExpert: number;
}

/** The loss with the model's own router, where its tokens went, and whether that paid. */
export interface RoutedEvaluation extends Evaluation, RouteStatistics {
  /** The router's loss less that of the best fixed expert, in nats; below 0 where choosing by token pays. */
  readonly cost: number;
}

/** A model's loss on passages with its router, and with each of its experts. @param passages - at least one */
export async function evaluatePerExpert(
  runner: StepRunner,
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
