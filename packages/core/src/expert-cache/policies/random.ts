import { uniformAt } from "../../sampling/uniform.ts";
import type { EvictionCandidate, EvictionPolicy } from "../eviction-policy.ts";

/** Any unit, each as likely as the others. @param seed - in [0, 2^53) */
export function randomEviction(seed: number): EvictionPolicy {
  return (candidates, { decision }) =>
    candidates[Math.floor(uniformAt(seed, 0, decision) * candidates.length)] as EvictionCandidate;
}
