import type { CostModel, Draft, LogitsRow, StepWork } from "@readme-moe/core";
import type { Sequence } from "../sequence.ts";

/** Estimates the chance of each token of a draft, if those before it are accepted. */
export type ChancesOf = (draft: Draft) => readonly number[];

/** A sequence that decodes, and that a draft is asked for. */
export interface DraftQuestion {
  readonly sequence: Sequence;
  /** Largest number of tokens, at least 1. */
  readonly mostTokens: number;
  /** Longest time that the draft may take, the drafter's own included. */
  readonly allowanceMs: number;
  readonly chancesOf: ChancesOf;
}

/** A proposal, and the time that it took beyond some microseconds. */
export interface ProposedDraft {
  readonly draft: Draft | undefined;
  readonly drafterMs: number;
}

/** The step that drafts join, without any draft. */
export interface StepBeforeDrafts {
  readonly work: StepWork;
  readonly cost: CostModel;
}

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
  /** Proposes the next tokens of sequences. @returns one proposal for each, in the same order */
  propose(questions: readonly DraftQuestion[], step: StepBeforeDrafts): Promise<readonly ProposedDraft[]>;
  /**
   * Suggests tokens to the caller of a bound sequence, who says which of them are allowed.
   * @param step - the last step, which the next one resembles; texts alone suggest without it
   */
  suggest(question: DraftQuestion, step: StepBeforeDrafts | undefined): Draft | undefined;
  /** Learns from the rows of a step, when its tokens are part of the sequence. */
  observe(step: StepRows): void;
  /** Follows rows of the model's states, before the next proposals. */
  follow(rows: readonly FollowedRows[]): void;
  /** Whether a sequence's proposals are worth their time, also where the last ones were weak. */
  isPromising(sequence: Sequence): boolean;
  /** Drops what is kept of a sequence that has ended. */
  forget(sequence: Sequence): void;
}

/** The model's states at some tokens of a sequence, in front of the layers that a draft head asks for. */
export interface FollowedRows {
  readonly id: string;
  /** All tokens of the sequence; rows whose next token is not known yet are ignored. */
  readonly tokenIds: readonly number[];
  /** Position of the first row. */
  readonly from: number;
  /** `[rows, layers * hiddenSize]` */
  readonly states: Float32Array;
}

export interface DraftedSequence {
  readonly id: string;
  /** The sequence's tokens; the draft follows the last one. */
  readonly tokenIds: readonly number[];
  /** Largest number of tokens of the draft. */
  readonly mostTokens: number;
  /** @default the head's own probabilities */
  readonly chancesOf?: ChancesOf | undefined;
}

/** The step that will verify the drafts: what it gives and takes without them. */
export interface VerifyingStep {
  /** Number of tokens that it is expected to give. */
  readonly tokens: number;
  /** Predicted time. */
  readonly ms: number;
  /** Time that each drafted token adds to it. */
  readonly msPerRow: number;
}

/** A head that drafts where texts have nothing likely. */
export interface DraftingHead {
  /** Time of all runs so far. */
  readonly spentMs: number;
  /** Predicts the time of each token of a run that gives each of `numRows` sequences one token. */
  msPerToken(numRows: number): number;
  /** Drafts for some sequences at once. @returns one draft for each, in the same order; empty where none pays */
  propose(sequences: readonly DraftedSequence[], step: VerifyingStep): readonly Draft[];
  /** Follows what a step has computed. */
  follow(rows: readonly FollowedRows[]): void;
  /** Whether drafts of a sequence save more time than they take, by the last ones. */
  isPromising(id: string): boolean;
  /** Frees what is kept of a sequence. */
  forget(id: string): void;
}
