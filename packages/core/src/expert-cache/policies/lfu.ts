import type { EvictionPolicy } from "../eviction-policy.ts";
import { greatest } from "./greatest.ts";

/** The unit that was used least often, ever; of several the one that was used least recently. */
export const lfu: EvictionPolicy = (candidates) =>
  greatest(candidates, (a, b) => (a.numUses === b.numUses ? a.lastUse < b.lastUse : a.numUses < b.numUses));
