import type { Draft, LogitsRow } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";

/** Estimates the chance of each token of a draft, if those before it are accepted. */
export type ChancesOf = (draft: Draft) => readonly number[];

/** Rows that a step gave a sequence. */
export interface StepRows {
  readonly sequence: Sequence;
  /** Number of known tokens before the step; the first row follows the last of them. */
  readonly numKnown: number;
  /** Draft tokens that ran; each has a row that follows it. */
  readonly draftIds: readonly number[];
  readonly rows: readonly LogitsRow[];
}

/** Proposes tokens that may follow. Proposals may be wrong; the closer they are, the faster a sequence is. */
export interface Drafter {
  /**
   * Proposes the next tokens of a sequence that decodes.
   * @param mostTokens - largest number of tokens, at least 1
   */
  propose(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined;
  /** Learns from the rows of a step, when its tokens are part of the sequence. */
  observe(step: StepRows): void;
  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void;
}
