// The machines of a fleet, with the numbers of `readme-moe fleet status`.

import type { FleetStatus } from "@readme-moe/fleet";
import type { LiveFleet } from "../shared/live.ts";

/** Describes a fleet for the live view. */
export function liveFleet({ workers, queues }: Pick<FleetStatus, "workers" | "queues">): LiveFleet {
  return {
    machines: workers.map(({ id, modelVersion, runningSeqs, freeSeqs, stepMs, missingBytes, isDraining }) => {
      const missing = Array.from(missingBytes);
      const experts = { inMemory: missing.filter((bytes) => bytes === 0).length, all: missing.length };
      return {
        id,
        version: modelVersion.slice(0, 8),
        running: runningSeqs,
        free: freeSeqs,
        stepMs,
        isDraining,
        ...(missing.length > 0 && { experts }),
      };
    }),
    queues: queues.map(({ key, waiting, running }) => ({ key, waiting, running })),
  };
}
