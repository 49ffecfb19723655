import { integerOption } from "@readme-moe/core";
import type { RouterConfig } from "@readme-moe/model";

/** What can be chosen of a router's shape; names as in `RouterConfig`. */
export type RouterArchitecture = Pick<
  RouterConfig,
  "embeddingSize" | "innerSize" | "numHeads" | "numLayers" | "normalizer" | "ropeTheta"
>;

const SIZE = 128;
const HEADS = 4;

/** `paper` is table 1 of the Read-ME paper; `default` is smaller, and right more often on texts it has not seen. */
export const ROUTER_ARCHITECTURES: Readonly<Record<"default" | "paper", RouterArchitecture>> = {
  default: {
    embeddingSize: SIZE,
    innerSize: SIZE,
    numHeads: HEADS,
    numLayers: 1,
    normalizer: Math.sqrt(SIZE / HEADS),
    ropeTheta: 10000,
  },
  paper: { embeddingSize: 512, innerSize: 512, numHeads: 4, numLayers: 1, normalizer: 1, ropeTheta: 10000 },
};

/** @throws {TypeError | RangeError} when a size is no positive integer, or heads do not divide the width evenly */
export function checkArchitecture(architecture: RouterArchitecture): RouterArchitecture {
  const { innerSize, numHeads } = architecture;
  for (const name of ["embeddingSize", "innerSize", "numHeads", "numLayers"] as const) {
    integerOption(`architecture.${name}`, architecture[name], 1, 1 << 16);
  }
  if (innerSize % numHeads !== 0 || (innerSize / numHeads) % 2 !== 0) {
    const found = `${innerSize} over ${numHeads} heads`;
    throw new RangeError(`Expected \`architecture.innerSize\` to divide into heads of even size, got ${found}`);
  }
  for (const name of ["normalizer", "ropeTheta"] as const) {
    if (architecture[name] > 0 && architecture[name] < Infinity) continue;
    throw new RangeError(`Expected \`architecture.${name}\` to be positive, got ${architecture[name]}`);
  }
  return architecture;
}
