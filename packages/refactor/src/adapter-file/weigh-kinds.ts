// How errors of unlike tensors compare. A tensor that a refit or tuning moved little is not one whose change matters little:
// by plain squares, all bytes would go to the large changes, and the small ones, of many more weights, would be lost whole.

import type { CodingChoice } from "./choices.ts";
import type { TensorPlan } from "./plan-tensors.ts";
import { kindOf } from "./targets.ts";

/**
 * Divides squared errors by the root mean square change of tensors of the same kind: halfway between counting errors as they
 * are and counting them relative to the change. Within a kind nothing changes.
 */
export function weighKinds(plans: readonly TensorPlan[]): readonly TensorPlan[] {
  const sums = new Map<string, { readonly square: number; readonly count: number }>();
  for (const { target, choices } of plans.filter(isChoice)) {
    const before = sums.get(kindOf(target)) ?? { square: 0, count: 0 };
    const count = target.input.shape.reduce((product, size) => product * size, 1);
    sums.set(kindOf(target), { square: before.square + changeOf(choices), count: before.count + count });
  }
  return plans.map((plan) => {
    const sum = isChoice(plan) ? sums.get(kindOf(plan.target)) : undefined;
    if (!sum) return plan;
    const rms = Math.sqrt(sum.square / sum.count);
    return { ...plan, choices: plan.choices.map((choice) => ({ ...choice, error: choice.error / rms })) };
  });
}

function isChoice({ choices }: TensorPlan): boolean {
  return choices.length > 1;
}

/** The square of what is lost where a tensor stays as it is in the base model. */
function changeOf(choices: readonly CodingChoice[]): number {
  return choices.find(({ how }) => how.coding === "base")?.error ?? 0;
}
