// The end of a worker that drains while workers of another model version take its place.

import { setTimeout as sleep } from "node:timers/promises";
import type { PublishedWorker } from "./state.ts";

type Known = Pick<PublishedWorker, "id" | "promptVersion" | "modelVersion" | "isDraining">;

/**
 * Tells whether nobody else could go on with a worker's requests, because its model version is being replaced. Without
 * a worker of another version it is a restart, after which the same version goes on.
 */
export function isLastOfVersion(own: Omit<Known, "isDraining">, workers: readonly Known[]): boolean {
  const taking = workers.filter(({ id, isDraining }) => id !== own.id && !isDraining);
  if (taking.some(({ modelVersion }) => modelVersion === own.modelVersion)) return false;
  return taking.some(({ promptVersion }) => promptVersion === own.promptVersion);
}

/** Time after which no front adds requests of a version whose last worker drains, in ms. */
const SEEN_MS = 2000;
const LOOK_MS = 250;

/** Waits until the requests of a worker's version have ended, for as long as it is the last of its version. */
export async function finishVersion(
  own: Omit<Known, "isDraining">,
  fleet: {
    readonly workers: () => Promise<readonly Known[]>;
    /** Counts the requests of the version that run here, or wait. */
    readonly numLeft: () => Promise<number>;
    /** Called each time that this worker turns out to be the last. */
    readonly onLast: () => void;
  },
): Promise<void> {
  const seenMs = performance.now() + SEEN_MS;
  while (isLastOfVersion(own, await fleet.workers())) {
    fleet.onLast();
    if (performance.now() > seenMs && (await fleet.numLeft()) === 0) return;
    await sleep(LOOK_MS);
  }
}
