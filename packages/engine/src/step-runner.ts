import type { KvMemory, KvMemoryOptions, Model } from "@readme-moe/model";
import type { StepSequence } from "./step-feeds.ts";
import type { StepLogits } from "./step-logits.ts";

/** Runs the steps of one model, wherever its weights are and whatever computes. */
export interface StepRunner {
  readonly model: Model;

  /** Opens memory for keys and values, for `forward` of this runner. */
  openKv(options: KvMemoryOptions): KvMemory;

  /**
   * Runs one step: every sequence's `tokenIds` go through all layers and are appended to its slot, which must have room
   * reserved for them. Blocks its thread while the step runs.
   *
   * @param kv - memory that this runner opened
   * @param numCandidates - best tokens wanted per row of logits @default 1
   * @returns one per sequence, in their order; full logits are as they are until the next call
   * @throws {TypeError} when `kv` or a slot is of another kind of runner; {RangeError} on what makes no step
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` when a sequence would outgrow the model's context; nothing has run then
   */
  forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates?: number): Promise<readonly StepLogits[]>;

  dispose(): Promise<void>;
}
