import type { KvMemory, KvMemoryOptions, KvSlot } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";
import type { StepLogits } from "./step-logits.ts";

/** One sequence's part in a step, which appends `tokenIds` to its slot. */
export interface StepSequence {
  /** Where its past is, in the KV memory that the step runs on. */
  readonly slot: KvSlot;
  /** Next tokens, at least one. */
  readonly tokenIds: ArrayLike<number>;
  /** Expert of each of `tokenIds`, in `[0, numExperts)`. */
  readonly experts: ArrayLike<number>;
  /** Indices into `tokenIds` of the tokens whose logits are wanted. */
  readonly logitsOf: readonly number[];
  /** Token ids whose log-probabilities are wanted, one for each of `logitsOf`. @default id 0 */
  readonly targets?: ArrayLike<number> | undefined;
  /** Whether whole rows of logits are wanted. @default false */
  readonly wantsFullLogits?: boolean | undefined;
}

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

  /** Whether all logits of a step with so many tokens and wanted rows can be read after it, by `StepLogits.readRow`. */
  keepsLogits(numTokens: number, numRows: number): boolean;

  dispose(): Promise<void>;
}
