import type { EvictionCandidate, EvictionPolicy } from "../eviction-policy.ts";
import { greatest } from "./greatest.ts";

/**
 * The unit whose next use is furthest away (Belady, "A study of replacement algorithms for a virtual-storage
 * computer", 1966). With units of one size and the whole future known, no policy reads less.
 *
 * Of those that nobody is known to need: the one that was idle for more steps; then the one whose layer has just run,
 * because layers run in a circle, and if its expert comes back it is needed last.
 */
export const belady: EvictionPolicy = (candidates) => greatest(candidates, isFurther);

function isFurther(a: EvictionCandidate, b: EvictionCandidate): boolean {
  if (a.nextUse !== b.nextUse) return a.nextUse > b.nextUse;
  if (a.idleSteps !== b.idleSteps) return a.idleSteps > b.idleSteps;
  return a.layersAway > b.layersAway;
}
