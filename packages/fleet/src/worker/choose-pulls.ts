// The jobs that a worker takes together: each as if those before it ran already.

import { choosePull, type FleetState, type PullDecision, type WorkerState } from "@readme-moe/core";
import type { PeekedQueue } from "../queue/peek.ts";
import type { HeldJob } from "./describe-worker.ts";

/** Decision about several jobs. */
export interface PullDecisions extends Pick<PullDecision, "askAgainMs"> {
  /** Queues to take a job from, one after the other; a queue may occur several times. */
  readonly queueIds: readonly string[];
}

/**
 * Chooses the queues of the next jobs, by `choosePull`. Jobs behind those that were looked at are left for the next
 * look.
 *
 * @param stateOf - state of the worker once it also holds these jobs
 */
export function choosePulls(
  queues: readonly PeekedQueue[],
  fleet: FleetState,
  stateOf: (held: readonly HeldJob[]) => WorkerState,
): PullDecisions {
  const held: HeldJob[] = [];
  const queueIds: string[] = [];
  let left = queues;
  for (;;) {
    const { queueId, askAgainMs } = choosePull(stateOf(held), left, fleet);
    const queue = left.find(({ id }) => id === queueId);
    const [job, ...next] = queue?.next ?? [];
    if (!queue || !job) return { queueIds, askAgainMs };
    queueIds.push(queue.id);
    const { numSeqs, expertShares, promptTokens, maxNewTokens } = job;
    const shares = expertShares && Array.from(expertShares);
    held.push({ affinity: queue.key, numSeqs, expertShares: shares, kvTokens: promptTokens + maxNewTokens });
    const [head] = next;
    const rest = head ? [{ ...queue, waiting: queue.waiting - 1, head, next }] : [];
    left = left.flatMap((one) => (one === queue ? rest : [one]));
  }
}
