// Routes: from a router's logits to experts, and the statistics of the experts that were chosen.

/**
 * Chooses the expert with the largest logit for each token; the lower index among equals.
 * @param logits - `[tokens, numExperts]`
 */
export function argmaxRoute(logits: Float32Array, numExperts: number): Uint16Array {
  return Uint16Array.from({ length: logits.length / numExperts }, (_, token) =>
    argmax(logits.subarray(token * numExperts, (token + 1) * numExperts)),
  );
}

function argmax(scores: Float32Array): number {
  let [best, most] = [0, -Infinity];
  for (const [index, score] of scores.entries()) if (score > most) [best, most] = [index, score];
  return best;
}

/** Statistics of a text's routes. */
export interface RouteStatistics {
  /** Share of tokens of each expert; the shares sum to 1. */
  readonly shares: readonly number[];
  /** Share of tokens that keep the expert of the token before, among those with one before; 1 if there are none. */
  readonly locality: number;
}

/** Computes the statistics of routes. @param routes - experts of each sequence's tokens */
export function routeStatistics(routes: readonly ArrayLike<number>[], numExperts: number): RouteStatistics {
  const counts = new Float64Array(numExperts);
  let [numTokens, numFollowing, numKept] = [0, 0, 0];
  for (const route of routes) {
    const experts = Array.from(route);
    for (const [token, expert] of experts.entries()) {
      counts[expert] = (counts[expert] ?? 0) + 1;
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
