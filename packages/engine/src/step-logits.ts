// A sequence's part of a step: what must hold of it, and what it gets back.

import { integerOption, ReadMeError } from "@readme-moe/core";
import type { Model } from "@readme-moe/model";
import type { StepSequence } from "./step-runner.ts";

/** What one sequence gets back of a step; a row for each of its `logitsOf`. */
export interface StepLogits {
  /** The best tokens of each row, best first, `[rows, numCandidates]`. */
  readonly candidateIds: Int32Array;
  readonly candidateLogits: Float32Array;
  /** `[rows]`; a candidate's log-probability is its logit minus this. */
  readonly logSumExp: Float32Array;
  /** Log-probability of each row's target, `[rows]`. */
  readonly targetLogProbs: Float32Array;
  /** `[rows, vocabSize]` when asked for, else empty. The next step writes over it. */
  readonly fullLogits: Float32Array;
  /** Reads all logits of a row until the next step; absent, or `undefined`, where the runner has not kept them. */
  readonly readRow?: ((row: number) => Float32Array | undefined) | undefined;
}

/** @throws {RangeError | TypeError} on what makes no step; {ReadMeError} `ERR_CONTEXT_LENGTH` */
export function checkSequence(
  { tokenIds, experts, slot, logitsOf, targets }: StepSequence,
  { config, experts: { names } }: Pick<Model, "config" | "experts">,
): void {
  const { vocabSize, contextTokens } = config;
  if (tokenIds.length === 0) throw new RangeError("Expected `tokenIds` to hold at least one token, got none");
  if (slot.numTokens + tokenIds.length > contextTokens) {
    const asked = slot.numTokens + tokenIds.length;
    throw new ReadMeError("ERR_CONTEXT_LENGTH", `${asked} tokens do not fit the model's context of ${contextTokens}`);
  }
  if (experts.length !== tokenIds.length) {
    throw new RangeError(`Expected \`experts\` to have one entry for each of ${tokenIds.length} tokens`);
  }
  if (targets && targets.length !== logitsOf.length) {
    throw new RangeError(`Expected \`targets\` to have one entry for each of ${logitsOf.length} rows of logits`);
  }
  const numExperts = names.length;
  for (let index = 0; index < tokenIds.length; index++) {
    integerOption(`tokenIds[${index}]`, tokenIds[index], 0, vocabSize - 1);
    integerOption(`experts[${index}]`, experts[index], 0, numExperts - 1);
  }
  for (const row of logitsOf) integerOption("logitsOf", row, 0, tokenIds.length - 1);
  for (const target of Array.from(targets ?? [])) integerOption("targets", target, 0, vocabSize - 1);
}
