// The choice of a mixture's router, as the kernel defines it, for one token.

import { add, divide, exponential, multiply, subtract } from "./plain-kernel-numbers.ts";
import { product, type PlainWeights } from "./plain-kernel-product.ts";

/** How a layer chooses experts. */
export interface PlainRouter {
  /** `[experts, hiddenSize]` in float32, and perhaps the gate of the part that all tokens use. */
  readonly router: PlainWeights;
  readonly experts: { readonly length: number };
  readonly expertsPerToken: number;
  readonly normalizesWeights: boolean;
}

/** An expert that a token uses. */
export interface PlainChoice {
  readonly expert: number;
  readonly weight: number;
}

/** Chooses the experts of a token, the most probable first. @param input - the FFN's normed input */
export function plainChoice(
  { router, experts, expertsPerToken, normalizesWeights }: PlainRouter,
  input: Float32Array,
): readonly PlainChoice[] {
  // Products and sums round separately in all builds, so that all choose the same experts.
  const logits = product(router, input, false).slice(0, experts.length);
  const sorted = Array.from(logits.keys()).toSorted((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const chosen = sorted.slice(0, expertsPerToken);
  const top = logits[chosen[0] as number] as number;
  const shareOf = (expert: number): number => exponential(subtract(logits[expert] as number, top));
  const counted = normalizesWeights ? chosen : Array.from(logits.keys());
  const sum = counted.reduce((total, expert) => add(total, shareOf(expert)), 0);
  return chosen.map((expert) => ({ expert, weight: divide(shareOf(expert), sum) }));
}

/** Weighs the part that all tokens use. */
export function plainSharedWeight({ router, experts }: PlainRouter, input: Float32Array): number {
  const logit = product(router, input, false)[experts.length];
  if (logit === undefined) return 1;
  const power = exponential(logit < 0 ? logit : -logit);
  return divide(logit < 0 ? power : 1, add(1, power));
}

/** Adds up the outputs of a token's experts, in the order of the choice. */
export function plainMix(
  choices: readonly PlainChoice[],
  outputOf: (expert: number) => Float32Array,
  hiddenSize: number,
): Float32Array {
  let sum = new Float32Array(hiddenSize);
  for (const { expert, weight } of choices) {
    const output = outputOf(expert);
    sum = sum.map((value, i) => add(value, multiply(output[i] as number, weight)));
  }
  return sum;
}
