import type { AllowedTokens } from "@readme-moe/core";
import { allowanceAfter } from "./allowed-tokens.ts";
import type { Sequence } from "./sequence.ts";

/** Sends a question about the tokens that may follow a sequence's. */
type OnQuestion = (sequence: Sequence, questionId: number) => void;

/**
 * Open questions to callers about the tokens that are allowed, one for each sequence. A preempted sequence keeps its
 * question, since the answer depends on its tokens alone.
 */
export class AllowedQuestions {
  readonly #onQuestion: OnQuestion;
  readonly #open = new Map<number, Sequence>();
  #numAsked = 0;

  constructor(onQuestion: OnQuestion) {
    this.#onQuestion = onQuestion;
  }

  /** Whether the sequence cannot run because it is not known which tokens are allowed. */
  isAwaiting({ isBound, allowed }: Sequence): boolean {
    return isBound && allowed === undefined;
  }

  /** Finds the tokens that may follow the sequence's: what is left of its last answer, or else by a question. */
  ask(sequence: Sequence): void {
    if (!sequence.isBound) return;
    sequence.allowed = sequence.allowed && allowanceAfter(sequence.allowed, sequence.tokenIds);
    if (sequence.allowed) return;
    const questionId = ++this.#numAsked;
    this.#open.set(questionId, sequence);
    this.#onQuestion(sequence, questionId);
  }

  /** Takes an answer. Ignores it if the sequence has ended meanwhile. */
  answer(questionId: number, allowed: AllowedTokens): void {
    const sequence = this.#open.get(questionId);
    this.#open.delete(questionId);
    if (sequence) sequence.allowed = { ...allowed, position: sequence.numTokens };
  }

  forget(sequence: Sequence): void {
    for (const [questionId, asking] of this.#open) if (asking === sequence) this.#open.delete(questionId);
  }
}
