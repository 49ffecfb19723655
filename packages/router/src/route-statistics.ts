/** What experts get of a text's tokens. */
export interface RouteStatistics {
  /** Of the tokens, by expert; they sum to 1. */
  readonly shares: readonly number[];
  /** Share of tokens whose expert is that of the token before, of those with one before; 1 where there are none. */
  readonly locality: number;
}

/** @param routes - experts of each sequence's tokens */
export function routeStatistics(routes: readonly ArrayLike<number>[], numExperts: number): RouteStatistics {
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
