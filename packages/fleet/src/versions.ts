// The model versions of a fleet, while workers change from one to another.

import type { PublishedWorker } from "./worker/state.ts";

/** A model version: its workers, and its requests. */
export interface VersionStatus {
  readonly modelVersion: string;
  readonly workers: number;
  /** Workers that drain. */
  readonly draining: number;
  /** Places of the other workers; fronts send new requests to the version with most. */
  readonly places: number;
  readonly running: number;
  readonly waiting: number;
}

/** Sums workers and queues by model version, the one with most places first. */
export function versionsOf(
  workers: readonly Pick<PublishedWorker, "modelVersion" | "maxNumSeqs" | "isDraining" | "runningSeqs">[],
  queues: readonly { readonly modelVersion: string; readonly waiting: number }[],
): readonly VersionStatus[] {
  const names = [...new Set([...workers, ...queues].map(({ modelVersion }) => modelVersion))];
  const versions = names.map((modelVersion): VersionStatus => {
    const own = workers.filter((worker) => worker.modelVersion === modelVersion);
    const taking = own.filter(({ isDraining }) => !isDraining);
    return {
      modelVersion,
      workers: own.length,
      draining: own.length - taking.length,
      places: taking.reduce((sum, { maxNumSeqs }) => sum + maxNumSeqs, 0),
      running: own.reduce((sum, { runningSeqs }) => sum + runningSeqs, 0),
      waiting: queues.reduce((sum, queue) => sum + (queue.modelVersion === modelVersion ? queue.waiting : 0), 0),
    };
  });
  return versions.toSorted((a, b) => b.places - a.places || (a.modelVersion < b.modelVersion ? -1 : 1));
}
