/** Tokens, of which those from `firstTarget` on are predicted, each from all those before it. */
export interface Passage {
  readonly tokenIds: Int32Array;
  /** From 1 up, below the number of tokens. */
  readonly firstTarget: number;
}

/** What a model makes of a passage. */
export interface PassageScores {
  /** Log-probability of each predicted token, in nats, `[tokens - firstTarget]`. */
  readonly logProbs: Float32Array;
  /** Expert of each token but the last, which is only predicted, `[tokens - 1]`. */
  readonly experts: Uint16Array;
}

/** @throws {RangeError} when `passage` predicts nothing, or its first token */
export function checkPassage({ tokenIds, firstTarget }: Passage): void {
  if (Number.isInteger(firstTarget) && firstTarget >= 1 && firstTarget < tokenIds.length) return;
  const expectation = `from 1 to ${tokenIds.length - 1}, since the passage has ${tokenIds.length} tokens`;
  throw new RangeError(`Expected \`firstTarget\` to be ${expectation}, got \`${firstTarget}\``);
}
