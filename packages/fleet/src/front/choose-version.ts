// Choice of the model version that new requests go to, while workers change from one to another.

import type { PublishedWorker } from "../worker/state.ts";

/**
 * Chooses the model version of new requests: of those with the front's prompts, the one with the most places. The
 * current one stays until another has more. A request stays with its version.
 *
 * @returns nothing while no worker takes jobs
 */
export function chooseVersion(
  workers: readonly Pick<PublishedWorker, "promptVersion" | "modelVersion" | "maxNumSeqs" | "isDraining">[],
  promptVersion: string,
  current: string | undefined,
): string | undefined {
  const places = new Map<string, number>();
  for (const worker of workers) {
    if (worker.isDraining || worker.promptVersion !== promptVersion) continue;
    places.set(worker.modelVersion, (places.get(worker.modelVersion) ?? 0) + worker.maxNumSeqs);
  }
  const rank = ([version, count]: readonly [string, number]): number => count + (version === current ? 0.5 : 0);
  const [best] = [...places].toSorted((a, b) => rank(b) - rank(a) || (a[0] < b[0] ? -1 : 1));
  return best?.[0];
}
