// Choice of the unit that is evicted. A policy is a function, named or a caller's own; it chooses only among units that
// may leave.

import { choiceOption } from "../options.ts";
import { uniformAt } from "../random.ts";
import { unitBytes, unitIndex, type ExpertCacheState, type ExpertLayout, type ExpertUnit } from "./cached-units.ts";

/** A unit that may be evicted. */
export interface EvictionCandidate extends ExpertUnit {
  readonly bytes: number;
  /** Next use, in layers from now, certain or estimated; `Infinity` if no known token needs the unit. */
  readonly nextUse: number;
  /** Number of layers until the unit's layer runs again with any expert: 1 to `numLayers`. */
  readonly layersAway: number;
  /** Time of its last use: the number of layers that had run before; -1 if never used. It survives eviction. */
  readonly lastUse: number;
  /** Number of times its layer has run without the unit since its last use; `Infinity` if it was never used. */
  readonly idleSteps: number;
  /** Number of layers that have run with the unit since the cache began. It survives eviction. */
  readonly numUses: number;
}

/** Input of a policy beside its candidates. */
export interface EvictionContext {
  /** Bytes that the next read still needs. */
  readonly missingBytes: number;
  /** Number of this decision since the cache began. A random policy draws the same number for the same decision. */
  readonly decision: number;
}

/**
 * Chooses one of `candidates`, and does not change them. There is at least one, and they are in order of layer and
 * expert. The cache calls the policy again until there is enough room.
 *
 * A policy keeps no state, because the cache also asks it for evictions that do not happen. What it needs to know of
 * the past is in its arguments.
 */
export type EvictionPolicy = (candidates: readonly EvictionCandidate[], context: EvictionContext) => EvictionCandidate;

/**
 * Evicts the unit whose next use is furthest away (Belady, "A study of replacement algorithms for a virtual-storage
 * computer", 1966). With units of one size and the whole future known, no policy reads less.
 *
 * Among units without a known use it evicts the one that was idle for more steps. Among equals it evicts the one whose
 * layer ran last: layers run in a cycle, so if its expert is used again, that unit is needed last.
 */
const belady: EvictionPolicy = (candidates) =>
  greatest(candidates, (a, b) => {
    if (a.nextUse !== b.nextUse) return a.nextUse > b.nextUse;
    if (a.idleSteps !== b.idleSteps) return a.idleSteps > b.idleSteps;
    return a.layersAway > b.layersAway;
  });

/**
 * Evicts the least recently used unit. Layers run in a cycle, so with less memory than one step needs, each unit is
 * evicted just before its turn and there are no hits at all.
 */
const lru: EvictionPolicy = (candidates) => greatest(candidates, (a, b) => a.lastUse < b.lastUse);

/** Evicts the unit with the fewest uses since the cache began; among equals the least recently used one. */
const lfu: EvictionPolicy = (candidates) =>
  greatest(candidates, (a, b) => (a.numUses === b.numUses ? a.lastUse < b.lastUse : a.numUses < b.numUses));

/** Creates a policy that evicts any unit with equal probability. @param seed - in [0, 2^53) */
function randomEviction(seed: number): EvictionPolicy {
  return (candidates, { decision }) => {
    const place = Math.floor(uniformAt(seed, 0, decision) * candidates.length);
    return greatest(candidates, (one) => one === candidates[place]);
  };
}

/** Finds the first item that no other one exceeds. @param items - at least one */
function greatest<Item>(items: readonly Item[], exceeds: (a: Item, b: Item) => boolean): Item {
  return items.reduce((best, item) => (exceeds(item, best) ? item : best));
}

/** Name of a built-in policy. */
export type EvictionPolicyName = "belady" | "lru" | "lfu" | "random";

/** Creates each built-in policy from a seed. */
const POLICIES: Readonly<Record<EvictionPolicyName, (seed: number) => EvictionPolicy>> = {
  belady: () => belady,
  lru: () => lru,
  lfu: () => lfu,
  random: randomEviction,
};

/**
 * Names of the built-in policies. `belady` evicts the unit that is needed last, as far as that is known (Read-ME,
 * section 4.1).
 */
export const EVICTION_POLICIES = Object.keys(POLICIES) as readonly EvictionPolicyName[];

/**
 * Returns the policy with this name, or the caller's own policy.
 *
 * @param seed - seed of `random`, in [0, 2^53)
 * @throws {TypeError} if `policy` is neither a function nor a known name
 */
export function resolveEvictionPolicy(policy: EvictionPolicyName | EvictionPolicy, seed = 0): EvictionPolicy {
  if (typeof policy === "function") return policy;
  return POLICIES[choiceOption("policy", policy, EVICTION_POLICIES)](seed);
}

interface CandidateSearch {
  readonly units: readonly ExpertUnit[];
  readonly layout: ExpertLayout;
  /** Uses of units so far. */
  readonly past: Pick<ExpertCacheState, "numLayersRun" | "numUses" | "lastUses">;
  /** Next use of each unit in layers from now, by `unitIndex`; `Infinity` if none is known. */
  readonly nextUses: ArrayLike<number>;
  /** The layers that run in a cycle, and the one that runs now. */
  readonly cycle: { readonly layer: number; readonly numLayers: number };
}

/** Describes units for a policy, in order of layer and expert. */
export function evictionCandidates({
  units,
  layout,
  past,
  nextUses,
  cycle,
}: CandidateSearch): readonly EvictionCandidate[] {
  const { numLayers } = cycle;
  // Numbers are sorted several times faster than units.
  const indices = Float64Array.from(units, (unit) => unitIndex(unit, layout)).sort();
  return Array.from(indices, (index) => {
    const [layer, expert] = [Math.floor(index / layout.numExperts), index % layout.numExperts];
    const lastUse = past.lastUses[index] ?? -1;
    return {
      layer,
      expert,
      bytes: unitBytes({ layer, expert }, layout),
      nextUse: nextUses[index] ?? Infinity,
      layersAway: ((layer - cycle.layer + 2 * numLayers - 1) % numLayers) + 1,
      lastUse,
      idleSteps: lastUse < 0 ? Infinity : Math.floor((past.numLayersRun - lastUse - 1) / numLayers),
      numUses: past.numUses[index] ?? 0,
    };
  });
}

interface VictimSearch {
  readonly candidates: readonly EvictionCandidate[];
  /** Bytes to make room for, from 0. */
  readonly missingBytes: number;
  readonly policy: EvictionPolicy;
  /** Number of the first decision, see `EvictionContext.decision`. */
  readonly firstDecision: number;
}

/**
 * Asks the policy for units until they make enough room. If sizes differ, the last unit may be so large that earlier
 * ones need not leave: these stay, the most valuable first.
 *
 * @returns the units to evict, in the reverse of the order in which the policy chose them: the most valuable first;
 *   `undefined` if all candidates together are not enough
 * @throws {TypeError} if the policy returns something that is not one of its candidates
 */
export function chooseVictims({
  candidates,
  missingBytes,
  policy,
  firstDecision,
}: VictimSearch): readonly EvictionCandidate[] | undefined {
  const left = [...candidates];
  const chosen: EvictionCandidate[] = [];
  let room = 0;
  while (room < missingBytes) {
    if (left.length === 0) return undefined;
    const decision = firstDecision + chosen.length;
    const victim = policy(left.slice(), { missingBytes: missingBytes - room, decision });
    const place = left.indexOf(victim);
    if (place < 0) throw new TypeError("Expected the eviction policy to return one of its candidates");
    left.splice(place, 1);
    chosen.push(victim);
    room += victim.bytes;
  }
  return chosen.toReversed().filter(({ bytes }) => {
    if (room - bytes < missingBytes) return true;
    room -= bytes;
    return false;
  });
}
