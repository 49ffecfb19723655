import { seededRandom } from "@readme-moe/core";

/**
 * Returns a shuffled copy (Fisher and Yates).
 *
 * @param source - seed, or draws by the index of the last item that is not placed yet
 */
export function shuffled<Item>(items: readonly Item[], source: number | ((last: number) => number)): readonly Item[] {
  const random = typeof source === "number" ? seededRandom(source) : source;
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random(i) * (i + 1));
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}

/** Draws normally distributed numbers (Box and Muller). */
export function normals(count: number, deviation: number, random: () => number): Float32Array {
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return deviation * radius * Math.cos(2 * Math.PI * random());
  });
}

/** Draws an index by weights. @param uniform - in [0, 1) */
export function drawIndex(uniform: number, weights: readonly number[]): number {
  let rest = uniform * weights.reduce((sum, weight) => sum + weight, 0);
  const found = weights.findIndex((weight) => (rest -= weight) < 0);
  return found < 0 ? weights.length - 1 : found;
}
