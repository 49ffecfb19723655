// Options that all parts of a fleet share.

import type { ConnectionLimits, FleetAddress } from "../connect.ts";

/** The fleet's Valkey or Redis, and who hears of its failures. */
export interface FleetPlace {
  /** URL of the fleet's Valkey or Redis. */
  readonly fleet: string | FleetAddress;
  /** Called with each failure that is survived. Without secrets. */
  readonly onError?: ((error: Error) => void) | undefined;
}

/** Options of fronts and workers. */
export interface FleetMemberOptions extends FleetPlace {
  readonly limits?: ConnectionLimits | undefined;
}
