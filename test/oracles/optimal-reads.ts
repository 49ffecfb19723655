// The least that any cache can read, by trying every content after every request.

/**
 * @param requests - units that are wanted at the same time, one set after the other
 * @param bytes - by unit; at most 16 units
 * @returns bytes that have to be read, from an empty cache
 */
export function leastBytesRead(
  requests: readonly (readonly number[])[],
  bytes: readonly number[],
  budgetBytes: number,
): number {
  const sizeOf = (contents: number): number =>
    bytes.reduce((sum, size, unit) => sum + (contents & (1 << unit) ? size : 0), 0);
  let costs = new Map<number, number>([[0, 0]]);
  for (const wanted of requests) {
    const need = wanted.reduce((mask, unit) => mask | (1 << unit), 0);
    const after = new Map<number, number>();
    for (const [contents, cost] of costs) {
      const read = sizeOf(need & ~contents);
      const others = contents & ~need;
      // Every subset of what else was there may stay.
      for (let kept = others; ; kept = (kept - 1) & others) {
        if (sizeOf(kept | need) <= budgetBytes) {
          const best = after.get(kept | need) ?? Infinity;
          after.set(kept | need, Math.min(best, cost + read));
        }
        if (kept === 0) break;
      }
    }
    costs = after;
  }
  return Math.min(...costs.values());
}
