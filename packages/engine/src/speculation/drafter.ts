import type { Draft, LogitsRow } from "@readme-moe/core";
import type { BatchItem } from "../batch.ts";
import type { Sequence } from "../sequence.ts";

/** Estimates the chance of each token of a draft, if those before it are accepted. */
export type ChancesOf = (draft: Draft) => readonly number[];

/** Proposes tokens that may follow. Proposals may be wrong; the closer they are, the faster a sequence is. */
export interface Drafter {
  /**
   * Proposes the next tokens of a sequence that decodes.
   * @param mostTokens - largest number of tokens, at least 1
   */
  propose(sequence: Sequence, mostTokens: number, chancesOf: ChancesOf): Draft | undefined;
  /** Learns from the rows of a step, whose tokens are part of the sequence by then. */
  observe(item: BatchItem, rows: readonly LogitsRow[]): void;
  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void;
}
