// The interface of whatever runs a model's steps.

import type { KvMemory, KvMemoryOptions, KvSlot } from "@readme-moe/kernel";
import type { Model } from "@readme-moe/model";

/** One sequence's part in a step, which appends `tokenIds` to its slot. */
export interface StepSequence {
  /** The sequence's slot in the KV memory of the step; it holds the earlier tokens. */
  readonly slot: KvSlot;
  /** Next tokens, at least one. */
  readonly tokenIds: ArrayLike<number>;
  /** Expert of each of `tokenIds`, in `[0, numExperts)`. */
  readonly experts: ArrayLike<number>;
  /** Indices into `tokenIds` of the tokens whose logits are wanted. */
  readonly logitsOf: readonly number[];
  /** Token ids whose log-probabilities are wanted, one for each of `logitsOf`. @default id 0 */
  readonly targets?: ArrayLike<number> | undefined;
  /**
   * Indices into `tokenIds`, in rising order, of tokens behind which the slot may be truncated later, of a model with
   * recurrences. That is possible in front of the first token and behind the last in any case. @default none
   */
  readonly savesBehind?: readonly number[] | undefined;
  /** Whether whole rows of logits are wanted. @default false */
  readonly wantsFullLogits?: boolean | undefined;
  /** Whether the mean of these rows is wanted in their place, of a model that gives states. @default false */
  readonly isAveraged?: boolean | undefined;
}

/** One sequence's results of a step; one row for each of its `logitsOf`, or one mean. */
export interface StepLogits {
  /** The best tokens of each row, best first, `[rows, numCandidates]`. */
  readonly candidateIds: Int32Array;
  readonly candidateLogits: Float32Array;
  /** `[rows]`; a candidate's log-probability is its logit minus this. */
  readonly logSumExp: Float32Array;
  /** Log-probability of each row's target, `[rows]`. */
  readonly targetLogProbs: Float32Array;
  /** `[rows, vocabSize]` if they were wanted, otherwise empty. The next step overwrites it. */
  readonly fullLogits: Float32Array;
  /**
   * Reads all logits of a row until the next step; absent, or returns `undefined`, if the runner has not kept them.
   */
  readonly readRow?: ((row: number) => Float32Array | undefined) | undefined;
  /** The model's states at all tokens, `[tokens, layers * hiddenSize]`, if a draft head takes them. */
  readonly states?: Float32Array | undefined;
}

/** Runs the steps of one model. */
export interface StepRunner {
  readonly model: Model;
  /** Names of the model's experts by index; empty where one was removed. */
  readonly expertNames: readonly string[];

  /** Opens memory for keys and values, for `forward` of this runner. */
  openKv(options: KvMemoryOptions): KvMemory;

  /**
   * Runs one step: the `tokenIds` of every sequence pass through all layers and are appended to its slot, which must
   * have room reserved for them. Blocks its thread while the step runs.
   *
   * @param kv - memory that this runner opened
   * @param numCandidates - number of best tokens per row of logits @default 1
   * @returns one result per sequence, in the same order; full logits are valid until the next call
   * @throws {TypeError} if `kv` or a slot belongs to another runner; {RangeError} on invalid sequences
   * @throws {ReadMeError} `ERR_CONTEXT_LENGTH` if a sequence would exceed the model's context; nothing has run then
   */
  forward(kv: KvMemory, sequences: readonly StepSequence[], numCandidates?: number): Promise<readonly StepLogits[]>;

  /** Whether `StepLogits.readRow` can read all logits after a step with this many tokens and wanted rows. */
  keepsLogits(numTokens: number, numRows: number): boolean;

  dispose(): Promise<void>;
}

/**
 * Discards a slot's positions from `numTokens` on and reserves their room again, so that other tokens can run there.
 */
export function rewind(kv: KvMemory, slot: KvSlot, numTokens: number): void {
  const { reservedTokens } = slot;
  kv.truncate(slot, numTokens);
  if (kv.reserve(slot, reservedTokens)) return;
  throw new Error(`The room for ${reservedTokens} tokens could not be reserved again`);
}
