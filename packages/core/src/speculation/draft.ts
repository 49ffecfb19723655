// Drafts: tokens that may follow a sequence, which a step of the model verifies.

/** Origin of a draft. */
export type DraftSource = "prediction" | "grammar" | "context" | "recycled" | "model";

/** Tokens that may follow a sequence. */
export interface Draft {
  readonly source: DraftSource;
  readonly tokenIds: readonly number[];
  /**
   * Class of evidence of each token, a small integer ≥ 0: tokens of a source with equal classes have similar chances of
   * being accepted.
   */
  readonly classes: readonly number[];
}
