export { seededRandom } from "@readme-moe/core";

/** An integer in `[0, limit)`. */
export function randomInteger(random: () => number, limit: number): number {
  return Math.floor(random() * limit);
}

/** Roughly normal, mean 0 and variance 1 (sum of twelve uniforms). */
export function randomNormal(random: () => number): number {
  let sum = -6;
  for (let i = 0; i < 12; i++) sum += random();
  return sum;
}
