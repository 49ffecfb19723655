// What a choice of experts costs, against the best and the worst that could be done.

import { routeStatistics, type RouteStatistics } from "@readme-moe/router";

/** The experts chosen for a text's tokens, and what each expert would have cost. */
export interface RoutedText {
  readonly experts: ArrayLike<number>;
  /** `[tokens, numExperts]`, lower is better. */
  readonly costs: Float32Array;
}

/** Means over tokens. */
export interface RouteFigures extends RouteStatistics {
  readonly tokens: number;
  /** Of the chosen experts. */
  readonly cost: number;
  /** Of the best expert of each token. */
  readonly oracleCost: number;
  /** Of the one expert that is best for a whole text. */
  readonly textOracleCost: number;
  /** Of the one expert that is best for everything. */
  readonly singleCost: number;
  /** Of an expert drawn by lot. */
  readonly randomCost: number;
  /** `(cost - oracleCost) / (randomCost - oracleCost)`: 0 is the oracle, 1 is chance; 0 where experts do not differ. */
  readonly regret: number;
  /** Share of the tokens whose best expert was chosen. */
  readonly accuracy: number;
}

/** @throws {RangeError} when there are no tokens, or numbers of tokens and costs disagree */
export function evaluateRoutes(texts: readonly RoutedText[], numExperts: number): RouteFigures {
  const totals = new Float64Array(numExperts);
  let [tokens, cost, oracle, textOracle, hits] = [0, 0, 0, 0, 0];
  for (const { experts, costs } of texts) {
    if (costs.length !== experts.length * numExperts) {
      const expected = `${experts.length} x ${numExperts} values`;
      throw new RangeError(`Expected \`costs\` to have ${expected}, got ${costs.length}`);
    }
    const ofText = new Float64Array(numExperts);
    for (let token = 0; token < experts.length; token++) {
      const expert = experts[token] as number;
      const own = costs[token * numExperts + expert] as number;
      let least = Infinity;
      for (let other = 0; other < numExperts; other++) {
        const value = costs[token * numExperts + other] as number;
        ofText[other] = (ofText[other] as number) + value;
        if (value < least) least = value;
      }
      cost += own;
      oracle += least;
      if (own === least) hits++;
    }
    tokens += experts.length;
    textOracle += Math.min(...ofText);
    for (let expert = 0; expert < numExperts; expert++) {
      totals[expert] = (totals[expert] as number) + (ofText[expert] as number);
    }
  }
  if (tokens === 0) throw new RangeError("Expected `texts` to hold at least one token, got none");
  const random = totals.reduce((sum, value) => sum + value, 0) / numExperts;
  return {
    tokens,
    cost: cost / tokens,
    oracleCost: oracle / tokens,
    textOracleCost: textOracle / tokens,
    singleCost: Math.min(...totals) / tokens,
    randomCost: random / tokens,
    regret: random > oracle ? (cost - oracle) / (random - oracle) : 0,
    accuracy: hits / tokens,
    ...routeStatistics(
      texts.map(({ experts }) => experts),
      numExperts,
    ),
  };
}
