// Options of a front.

import type { PromptReader } from "@readme-moe/core";
import type { FleetMemberOptions } from "../connection/options.ts";

/** Options of `FleetEngine.open`. */
export interface FleetEngineOptions extends FleetMemberOptions {
  /** Reads prompts, as `openPromptReader` of @readme-moe/engine opens it. Disposed with this engine. */
  readonly reader: PromptReader;
  /** Longest predicted wait with which a request is admitted, in ms. @default 30000 */
  readonly maxWaitMs?: number | undefined;
  /** Time without Valkey after which requests fail, in ms. @default 15000 */
  readonly unreachableMs?: number | undefined;
}
