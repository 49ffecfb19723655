import type { EvictionPolicyName } from "@readme-moe/core";
import type { SchedulerName } from "./schedulers.ts";

export interface SimulateFlags {
  readonly trace?: string;
  readonly experts: number;
  readonly layers: number;
  /** Of one layer of one expert. */
  readonly layerBytes: number;
  readonly sequences: number;
  readonly arrivalsPerStep: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly locality: number;
  readonly seed: number;
  /** The recorded steps as they ran, instead of the sequences anew. */
  readonly replay: boolean;
  readonly scheduler: readonly SchedulerName[];
  readonly policy: readonly EvictionPolicyName[];
  /** In experts. */
  readonly capacity?: readonly number[];
  /** In bytes. */
  readonly memory?: readonly number[];
  readonly lookaheadLayers?: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedSeqs?: number;
  readonly maxNumBatchedTokens: number;
  readonly chunkTokens: number;
  readonly readMbPerS: number;
  readonly overlap: boolean;
  readonly writeTrace?: string;
  readonly svg?: string;
  readonly json: boolean;
}
