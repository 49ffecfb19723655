/** Bytes of a model's tokens, for binding answers to a grammar. */
export interface EngineVocabulary {
  /** Number of logits. */
  readonly vocabSize: number;
  /** Bytes of all tokens, one after the other; often parts of UTF-8 characters. */
  readonly bytes: Uint8Array;
  /**
   * `[vocabSize + 1]`: token `id` has the bytes from `offsets[id]` up to `offsets[id + 1]`. Control tokens, and ids
   * without a token, have no bytes.
   */
  readonly offsets: Uint32Array;
  /** Tokens that end a completion. */
  readonly eosTokenIds: readonly number[];
}
