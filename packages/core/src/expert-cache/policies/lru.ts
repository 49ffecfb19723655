import type { EvictionPolicy } from "../eviction-policy.ts";
import { greatest } from "./greatest.ts";

/**
 * The unit that was used least recently. Layers run in a circle, so that with less memory than one step needs it
 * evicts each unit just before its turn, and hits nothing at all.
 */
export const lru: EvictionPolicy = (candidates) => greatest(candidates, (a, b) => a.lastUse < b.lastUse);
