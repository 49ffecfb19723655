import type { RouterExample } from "./router-example.ts";

/**
 * Examples out of texts whose domain is known but not their costs: each token of a domain is taken to cost what the
 * domain's tokens cost on average.
 *
 * @param costed - of each domain, examples with measured costs; at least one
 * @param texts - of each domain
 * @param weight - how much their tokens count beside measured ones
 */
export function labelledExamples(
  costed: readonly (readonly RouterExample[])[],
  texts: readonly (readonly Int32Array[])[],
  numExperts: number,
  weight: number,
): readonly RouterExample[] {
  return texts.flatMap((ofDomain, domain) => {
    const row = meanCosts(costed[domain] ?? [], numExperts);
    return ofDomain.map((tokenIds) => {
      const costs = new Float32Array(tokenIds.length * numExperts);
      for (let token = 0; token < tokenIds.length; token++) costs.set(row, token * numExperts);
      return { tokenIds, costs, weight };
    });
  });
}

function meanCosts(examples: readonly RouterExample[], numExperts: number): Float64Array {
  const sums = new Float64Array(numExperts);
  let tokens = 0;
  for (const { costs } of examples) {
    for (let i = 0; i < costs.length; i++) {
      sums[i % numExperts] = (sums[i % numExperts] as number) + (costs[i] as number);
    }
    tokens += costs.length / numExperts;
  }
  if (tokens === 0) throw new RangeError("Expected `costed` to hold an example of each domain, got none of one");
  return sums.map((sum) => sum / tokens);
}
