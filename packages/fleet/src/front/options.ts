// Options of a front.

import type { PromptReader } from "@readme-moe/core";
import type { FleetAddress } from "../connection/address.ts";
import type { ConnectionLimits } from "../connection/connect.ts";

/** Options of `FleetEngine.open`. */
export interface FleetEngineOptions {
  /** URL of the fleet's Valkey or Redis. */
  readonly fleet: string | FleetAddress;
  /** Reads prompts, as `openPromptReader` of @readme-moe/engine opens it. Disposed with this engine. */
  readonly reader: PromptReader;
  /** Longest predicted wait with which a request is admitted, in ms. @default 30000 */
  readonly maxWaitMs?: number | undefined;
  /** Time without Valkey after which requests fail, in ms. @default 15000 */
  readonly unreachableMs?: number | undefined;
  readonly limits?: ConnectionLimits | undefined;
  /** Called with each failure of the connection. Without secrets. */
  readonly onError?: ((error: Error) => void) | undefined;
}
