import type { KvPool, KvShape, Model } from "@readme-moe/model";
import type { StepLogits } from "./step-logits.ts";
import type { StepSequence } from "./step-feeds.ts";

/** What runs the steps of one model: with all weights in memory, or with experts that come and go. */
export interface StepRunner {
  readonly model: Model;
  readonly kvShape: KvShape;
  /** See `ModelRunner.forward`. */
  forward(pool: KvPool, sequences: readonly StepSequence[], numCandidates?: number): Promise<readonly StepLogits[]>;
  dispose(): Promise<void>;
}
