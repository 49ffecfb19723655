// Where a router's training starts.

import type { RouterConfig } from "@readme-moe/model";
import { seededRandom } from "@readme-moe/core";
import { routerShapes } from "./router-network.ts";

/** Of residual branches and of the head, so that their outputs are small beside what they are added to. */
const BRANCH_GAIN = 0.3;

/** Parameters of `routerShapes`: random matrices, norms of one, biases of zero. */
export function startParameters(config: RouterConfig, seed: number): ReadonlyMap<string, Float32Array> {
  const random = seededRandom(seed);
  const parameters = new Map<string, Float32Array>();
  for (const [name, [out = 0, size]] of routerShapes(config)) {
    if (size !== undefined) {
      const gain = /^(o_proj|proj_2|proj_out)/.test(name) ? BRANCH_GAIN : 1;
      parameters.set(name, normals(out * size, gain / Math.sqrt(size), random));
    } else parameters.set(name, new Float32Array(out).fill(name.includes("layernorm") ? 1 : 0));
  }
  return parameters;
}

/** Seeded normal numbers (Box and Muller). */
export function normals(count: number, deviation: number, random: () => number): Float32Array {
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return deviation * radius * Math.cos(2 * Math.PI * random());
  });
}
