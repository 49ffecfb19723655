import type { Candidate } from "./candidates.ts";
import type { ScheduledSequence, SchedulerLimits } from "./scheduler.ts";

/** A step that is being put together, within its limits. */
export class StepDraft {
  readonly #chosen = new Set<Candidate>();
  #tokensLeft: number;
  #seqsLeft: number;

  constructor({ maxNumBatchedSeqs, maxNumBatchedTokens }: SchedulerLimits) {
    this.#tokensLeft = maxNumBatchedTokens;
    this.#seqsLeft = maxNumBatchedSeqs;
  }

  get tokensLeft(): number {
    return this.#tokensLeft;
  }

  get seqsLeft(): number {
    return this.#seqsLeft;
  }

  /** In the order in which they were taken. */
  get scheduled(): readonly ScheduledSequence[] {
    return Array.from(this.#chosen, ({ sequence, numTokens }) => ({ id: sequence.id, numTokens }));
  }

  has(candidate: Candidate): boolean {
    return this.#chosen.has(candidate);
  }

  /** Takes a candidate that is not in the step yet. @returns whether there was room */
  take(candidate: Candidate): boolean {
    if (this.#seqsLeft === 0 || candidate.numTokens > this.#tokensLeft) return false;
    this.#chosen.add(candidate);
    this.#tokensLeft -= candidate.numTokens;
    this.#seqsLeft--;
    return true;
  }
}
