// Rules that send a job to a worker when it arrives, where it waits in the worker's own queue. Pulling is compared with
// them.

import { type AffinityKey, type Member, rendezvousOrder } from "@readme-moe/core";

/** A worker as a rule sees it that sends jobs. */
export interface PushTarget extends Member {
  /** Number of jobs that run or wait there, as far as is known. */
  readonly load: number;
}

interface PushedJob {
  readonly key: AffinityKey;
  /** Number of the job, from 0 up. */
  readonly number: number;
}

/** Names of the rules. */
export type PushPlacementName = "round-robin" | "least-requests" | "affinity" | "bounded-affinity";

/** Chooses one of the targets, of which there is at least one. Does not change them. */
type PushPlacement = (job: PushedJob, targets: readonly PushTarget[]) => PushTarget;

// A worker may have this share of jobs more than the mean before the next in a key's order gets them (Mirrokni, Thorup
// and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018).
const LOAD_ABOVE_MEAN = 0.25;

/** The rules by name. */
export const PUSH_PLACEMENTS: Readonly<Record<PushPlacementName, PushPlacement>> = {
  /** Each worker in turn. */
  "round-robin": ({ number }, targets) => targetAt(byId(targets), number % targets.length),
  /** The worker with the fewest jobs for its capacity; of equals, each in turn. */
  "least-requests": ({ number }, targets) => {
    const turned = byId(targets);
    const first = number % targets.length;
    const order = [...turned.slice(first), ...turned.slice(0, first)];
    return targetAt(
      order.toSorted((a, b) => a.load / a.capacity - b.load / b.capacity),
      0,
    );
  },
  /** The first worker of the key's rendezvous order. */
  affinity: ({ key }, targets) => firstOf(key, targets, () => true),
  /** The first worker of the key's rendezvous order whose load is not far above the mean. */
  "bounded-affinity": ({ key }, targets) => {
    const capacity = targets.reduce((sum, target) => sum + target.capacity, 0);
    const jobs = targets.reduce((sum, { load }) => sum + load, 0) + 1;
    const mostOf = (target: PushTarget): number => ((1 + LOAD_ABOVE_MEAN) * jobs * target.capacity) / capacity;
    return firstOf(key, targets, (target) => target.load + 1 <= Math.max(1, Math.ceil(mostOf(target))));
  },
};

function firstOf(
  key: AffinityKey,
  targets: readonly PushTarget[],
  isFree: (target: PushTarget) => boolean,
): PushTarget {
  const order = rendezvousOrder(key, targets).map(({ id }) => id);
  const ordered = targets.toSorted((a, b) => order.indexOf(a.id) - order.indexOf(b.id));
  return ordered.find(isFree) ?? targetAt(ordered, 0);
}

function byId(targets: readonly PushTarget[]): readonly PushTarget[] {
  return targets.toSorted((a, b) => (a.id < b.id ? -1 : 1));
}

function targetAt(targets: readonly PushTarget[], index: number): PushTarget {
  const target = targets[index];
  if (!target) throw new RangeError("Expected `targets` to have a worker, got none");
  return target;
}
