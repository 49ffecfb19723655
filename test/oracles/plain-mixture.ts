// The choice of a mixture's router, as the kernel defines it, for one token.

import { add, divide, exponential, multiply, subtract } from "./plain-kernel-numbers.ts";
import { product, type PlainWeights } from "./plain-kernel-product.ts";
import { sigmoid } from "./plain-recurrence.ts";

/** How a layer chooses experts. */
export interface PlainRouter {
  /** `[experts, hiddenSize]` in float32, and perhaps the gate of the part that all tokens use. */
  readonly router: PlainWeights;
  readonly experts: { readonly length: number };
  readonly expertsPerToken: number;
  readonly normalizesWeights: boolean;
  /** Biases by expert, with which sigmoids choose, and a factor of these. @default a softmax */
  readonly biases?: Float32Array | undefined;
  readonly weightScale?: number | undefined;
}

/** An expert that a token uses. */
export interface PlainChoice {
  readonly expert: number;
  readonly weight: number;
}

/** Chooses the experts of a token, the most probable first. @param input - the FFN's normed input */
export function plainChoice(
  { router, experts, expertsPerToken, normalizesWeights, biases, weightScale = 1 }: PlainRouter,
  input: Float32Array,
): readonly PlainChoice[] {
  // Products and sums round separately in all builds, so that all choose the same experts.
  const logits = product(router, input, false).slice(0, experts.length);
  const largest = (values: Float32Array): number[] =>
    Array.from(values.keys())
      .toSorted((a, b) => (values[b] as number) - (values[a] as number) || a - b)
      .slice(0, expertsPerToken);
  if (biases) {
    const sigmoids = logits.map(sigmoid);
    const best = largest(sigmoids.map((value, expert) => add(value, biases[expert] as number)));
    const all = best.reduce((total, expert) => add(total, sigmoids[expert] as number), 0);
    const weightOf = (own: number): number => (normalizesWeights ? divide(own, add(all, Math.fround(1e-6))) : own);
    return best.map((expert) => ({
      expert,
      weight: multiply(weightOf(sigmoids[expert] as number), Math.fround(weightScale)),
    }));
  }
  const chosen = largest(logits);
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
  return sigmoid(logit);
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
