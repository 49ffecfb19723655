// How errors of unlike tensors compare. By plain squares, all bytes would go to the large changes, and small ones, of many
// more weights, would be lost whole.

import type { TensorPlan } from "./plan-tensors.ts";
import { kindOf } from "./targets.ts";

// What losing a share of all change of a kind costs. A tuned SmolLM2 was packed in 40 MB, and each kind's tensors put into the
// unpacked model alone: nats over unpacked by what was lost of the kind's change, in squares, were 0.046 (attention), 0.031
// (gate), 0.029 (up) and 0.159 (down); of the router's table, too few to measure.
const WORTH: Readonly<Record<string, number>> = { attention: 3, gate: 2, up: 2, down: 10, router: 3 };
const WORTH_OF_OTHERS = 3;

/** Squared errors as shares of all change of tensors of the same kind, times what that is worth. */
export function weighKinds(plans: readonly TensorPlan[]): readonly TensorPlan[] {
  const changes = new Map<string, number>();
  for (const { target, change } of plans) changes.set(kindOf(target), (changes.get(kindOf(target)) ?? 0) + change);
  return plans.map((plan) => {
    const kind = kindOf(plan.target);
    const weight = (WORTH[kind] ?? WORTH_OF_OTHERS) / (changes.get(kind) || 1);
    return { ...plan, choices: plan.choices.map((choice) => ({ ...choice, error: choice.error * weight })) };
  });
}
