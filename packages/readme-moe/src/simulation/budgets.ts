import { expertBytes, type ExpertLayout } from "@readme-moe/core";
import type { SimulateFlags } from "./simulate-flags.ts";

/** A size of the expert cache. */
export interface CacheBudget {
  /** In experts; absent where a size in bytes was asked for. */
  readonly capacity?: number | undefined;
  readonly budgetBytes: number;
}

const DEFAULT_CAPACITIES = [2, 3, 4, 5];

/**
 * By capacity, or by the sizes that were asked for.
 * @throws {RangeError} when a capacity is larger than all experts
 */
export function budgetsOf(
  layout: ExpertLayout,
  { capacity, memory }: Pick<SimulateFlags, "capacity" | "memory">,
): readonly CacheBudget[] {
  if (memory) return memory.map((budgetBytes) => ({ budgetBytes }));
  const tooLarge = capacity?.find((experts) => experts > layout.numExperts);
  if (tooLarge !== undefined) {
    throw new RangeError(`Expected \`--capacity\` to be from 1 to ${layout.numExperts} experts, got \`${tooLarge}\``);
  }
  const capacities = capacity ?? DEFAULT_CAPACITIES.filter((experts) => experts <= layout.numExperts);
  return capacities.map((experts) => ({ capacity: experts, budgetBytes: experts * expertBytes(layout) }));
}
