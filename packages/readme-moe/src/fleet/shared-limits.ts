// Rate limits of `serve`: this process's own, or those that the fronts of a fleet share.

import type { ReadMeEmitter } from "@readme-moe/core";
import type { SharedLimits } from "@readme-moe/fleet";
import { fleetModule } from "../optional-modules.ts";
import type { ServingFlags } from "../serving/serving-flags.ts";
import { reportSeldom } from "./open-front.ts";
import type { FleetFlags } from "../options.ts";

/** Rate limits, as numbers or as limiters. */
export interface OpenedLimits extends Disposable {
  readonly requestsPerMinute: number | SharedLimits["requestsPerMinute"];
  readonly tokensPerMinute: number | SharedLimits["tokensPerMinute"];
}

/** Opens the rate limits that the flags ask for. @throws {TypeError | RangeError} on a wrong URL of the fleet */
export async function openLimits(
  { fleet, requestsPerMinute, tokensPerMinute }: ServingFlags & FleetFlags,
  events: ReadMeEmitter,
): Promise<OpenedLimits> {
  const limits = { requestsPerMinute, tokensPerMinute };
  const hasLimit = requestsPerMinute !== undefined || tokensPerMinute !== undefined;
  if (fleet === undefined || !hasLimit) return { ...limits, [Symbol.dispose]: () => undefined };
  const { openSharedLimits } = await fleetModule("`--fleet`");
  const note = reportSeldom();
  const shared = openSharedLimits({
    ...limits,
    fleet,
    onLocal: (unit) => {
      events.emit("limit:local", { unit });
      note(new Error(`the fleet's counts of ${unit} per minute cannot be read; this front counts for itself`));
    },
    // The front's own connections report the same failures.
    onError: () => undefined,
  });
  const { close, ...limiters } = shared;
  return { ...limiters, [Symbol.dispose]: close };
}
