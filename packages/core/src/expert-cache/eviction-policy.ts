// Which unit leaves. A policy is a function, named or a caller's own; the planner gives it only units that may go.

import { choiceOption } from "../options.ts";
import { belady } from "./policies/belady.ts";
import { lfu } from "./policies/lfu.ts";
import { lru } from "./policies/lru.ts";
import { randomEviction } from "./policies/random.ts";
import type { ExpertUnit } from "./unit.ts";

/** A unit that may be evicted. */
export interface EvictionCandidate extends ExpertUnit {
  readonly bytes: number;
  /** In layers from now, sure or estimated; `Infinity` when nobody is known to need it. */
  readonly nextUse: number;
  /** Layers until its layer runs again, whoever needs it then: 1 to `numLayers`. */
  readonly layersAway: number;
  /** Layers that ran before the one that last used it; -1 when none has. Larger is more recent. */
  readonly lastUse: number;
  /** How often its layer has run without it since its last use; `Infinity` when it was never used. */
  readonly idleSteps: number;
  /** Layers that have run with it, ever. */
  readonly numUses: number;
}

/** What a policy is told besides its candidates. */
export interface EvictionContext {
  /** That the next read still lacks. */
  readonly missingBytes: number;
  /** Number of this decision since the cache began: the same decision draws the same number. */
  readonly decision: number;
}

/**
 * Chooses one of `candidates`, of which there is at least one, in order of layer and expert; leaves them unchanged.
 * It is asked again while the room is not enough.
 */
export type EvictionPolicy = (candidates: readonly EvictionCandidate[], context: EvictionContext) => EvictionCandidate;

/**
 * The policies that are known by name. `belady` evicts what is needed last, as far as that is known (Read-ME, section
 * 4.1).
 */
export const EVICTION_POLICIES = ["belady", "lru", "lfu", "random"] as const;

/** The name of a policy that comes with the package. */
export type EvictionPolicyName = (typeof EVICTION_POLICIES)[number];

/**
 * @param seed - of `random`, in [0, 2^53)
 * @throws {TypeError} when it is neither a function nor a known name
 */
export function resolveEvictionPolicy(policy: EvictionPolicyName | EvictionPolicy, seed = 0): EvictionPolicy {
  if (typeof policy === "function") return policy;
  const name = choiceOption("policy", policy, EVICTION_POLICIES);
  return name === "random" ? randomEviction(seed) : { belady, lru, lfu }[name];
}
