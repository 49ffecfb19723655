// Routes texts, and compares what routes cost with the best and the worst possible choices.

import type { Model } from "@readme-moe/model";
import { KernelRouter, routeStatistics, type RouteStatistics } from "@readme-moe/router";

/** Returns the expert of each token of a text. */
export type Route = (tokenIds: Int32Array) => Promise<Uint16Array>;

/** Opens a model's own router for `use`. Each text is routed from its beginning. */
export async function withKernelRouter<Result>(
  model: Model,
  options: { readonly cacheFolder: string; readonly threads: number | undefined },
  use: (route: Route) => Promise<Result>,
): Promise<Result> {
  const router = await KernelRouter.open(model, options);
  try {
    return await use(async (tokenIds) => {
      const state = router.start();
      const [route] = await router.route([{ state, tokenIds }]);
      router.release(state);
      return Uint16Array.from(route?.experts ?? []);
    });
  } finally {
    await router.dispose();
  }
}

/** Experts chosen for a text's tokens, and the costs of all experts. */
export interface RoutedText {
  readonly experts: ArrayLike<number>;
  /** `[tokens, numExperts]`, lower is better. */
  readonly costs: Float32Array;
}

/** Means over tokens. */
export interface RouteFigures extends RouteStatistics {
  readonly tokens: number;
  /** Cost of the chosen experts. */
  readonly cost: number;
  /** Cost of each token's best expert. */
  readonly oracleCost: number;
  /** Cost of each text's best expert. */
  readonly textOracleCost: number;
  /** Cost of the best expert for all texts together. */
  readonly singleCost: number;
  /** Cost of a randomly drawn expert. */
  readonly randomCost: number;
  /**
   * `(cost - oracleCost) / (randomCost - oracleCost)`: 0 is the oracle, 1 is chance; 0 when all experts cost the same.
   */
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
      const start = token * numExperts;
      const own = costs[start + experts[token]!]!;
      let least = Infinity;
      for (let expert = 0; expert < numExperts; expert++) {
        const value = costs[start + expert]!;
        ofText[expert]! += value;
        if (value < least) least = value;
      }
      cost += own;
      oracle += least;
      if (own === least) hits++;
    }
    tokens += experts.length;
    textOracle += Math.min(...ofText);
    ofText.forEach((sum, expert) => (totals[expert]! += sum));
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
