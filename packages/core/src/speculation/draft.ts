/**
 * Source of a draft: a text that the caller expects ("prediction"), tokens that a grammar forces ("grammar"), an
 * earlier occurrence of the last tokens ("context"), candidates that earlier steps computed ("recycled"), or a small
 * model ("model").
 */
export type DraftSource = "prediction" | "grammar" | "context" | "recycled" | "model";

/** Tokens that may follow a sequence's last token. A step runs them as further rows and keeps those that are right. */
export interface Draft {
  readonly source: DraftSource;
  readonly tokenIds: readonly number[];
  /**
   * Class of evidence of each token, a small integer from 0. Tokens of one source with equal classes have similar
   * chances of being accepted once all tokens before them are.
   */
  readonly classes: readonly number[];
}
