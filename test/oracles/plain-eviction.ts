// Caches of one layer with plain eviction policies, which look at the whole past for each request.

const countOf = (values: readonly number[], value: number): number => values.filter((one) => one === value).length;

/** Orders experts by each policy: the one that is evicted first comes first. */
const ORDERS = {
  lru: (past: readonly number[]) => (a: number, b: number) => past.lastIndexOf(a) - past.lastIndexOf(b),
  lfu: (past: readonly number[]) => (a: number, b: number) =>
    countOf(past, a) - countOf(past, b) || past.lastIndexOf(a) - past.lastIndexOf(b),
};

/** Counts the hits of a cache of `capacity` experts that are requested one after the other. */
export function plainHits(experts: readonly number[], capacity: number, policy: keyof typeof ORDERS): number {
  let cached: readonly number[] = [];
  let hits = 0;
  for (const [at, expert] of experts.entries()) {
    const order = ORDERS[policy](experts.slice(0, at));
    if (cached.includes(expert)) hits++;
    else cached = [...cached.toSorted(order).slice(cached.length === capacity ? 1 : 0), expert];
  }
  return hits;
}
