import type { EvictionPolicy } from "../expert-cache/eviction-policy.ts";
import { uniformAt } from "../sampling/uniform.ts";
import { replayUnits, type UnitReplay } from "./replay-units.ts";
import { distinctExperts, type TraceStep } from "./trace.ts";

/**
 * A cache of whole experts for one layer alone, expert by expert in an order that is drawn for each step, as caches of
 * mixtures of experts are usually measured (Read-ME, table 4). Layers share nothing here, and nothing is a circle.
 *
 * @param capacity - in experts, from 1 up
 * @param seed - of the order, in [0, 2^53)
 */
export function replayLayer(
  steps: readonly TraceStep[],
  capacity: number,
  policy: EvictionPolicy,
  seed: number,
): UnitReplay {
  const requests = steps.flatMap((step, place) =>
    shuffled(distinctExperts(step), seed, place).map((expert) => ({ layer: 0, expert })),
  );
  const numExperts = steps[0]?.tokensPerExpert.length ?? 1;
  return replayUnits(requests, { numExperts, layerBytes: [1] }, capacity, policy);
}

/** Fisher and Yates. */
function shuffled(items: readonly number[], seed: number, step: number): readonly number[] {
  const order = [...items];
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor(uniformAt(seed, step, last) * (last + 1));
    [order[last], order[other]] = [order[other] as number, order[last] as number];
  }
  return order;
}
