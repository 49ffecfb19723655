/** Position of a row of logits. */
export interface LogitsContext {
  /** Tokens of the prompt, then the tokens generated so far, without the next one. */
  readonly tokenIds: Int32Array;
  readonly promptTokens: number;
  /** Index of the completion, below `n`. */
  readonly choice: number;
}

/**
 * Changes a row of logits.
 *
 * A function that only forbids tokens can have the property `allowTokens`. An engine then asks for the allowed tokens
 * instead of sending rows, and may run several tokens in one step. Both have to allow the same tokens.
 */
export interface ProcessLogits {
  /**
   * @param logits - `[vocabSize]`, in nats; may be changed in place, and must not be used after the function's answer
   * @returns nothing to use `logits` itself, or other logits of the same length
   */
  (logits: Float32Array, context: LogitsContext): Float32Array | void | Promise<Float32Array | void>;
  readonly allowTokens?: AllowTokens | undefined;
  /**
   * Data from which `openConstraint` of @readme-moe/grammar makes the same function in another process.
   * @default none: the function cannot leave its process
   */
  readonly source?: ConstraintSource | undefined;
}

/** Description of a function that forbids tokens: plain JSON data, whose other fields depend on its kind. */
export interface ConstraintSource {
  readonly kind: string;
}

/** Position of a question about allowed tokens. */
export interface AllowContext extends LogitsContext {
  /** Tokens that the engine would draft after `tokenIds`; may be empty. */
  readonly draft: Int32Array;
}

/** Tokens that are allowed at a position, and at the positions behind it if the tokens of a draft come next. */
export interface AllowedTokens {
  /**
   * Tokens that are forced or probable after the context's `tokenIds`, at most 32, each allowed where it stands: those
   * that the answer itself suggests, or the beginning of the context's `draft` as far as it is allowed.
   */
  readonly draft: Int32Array;
  /** Number of the first tokens of `draft` that are the only ones allowed where they stand. */
  readonly numForced: number;
  /**
   * Bit masks, `[1 + draft.length]`, for the next token, then after each token of `draft`. Each has
   * `ceil(vocabSize / 32)` words; token `id` is allowed if bit `id % 32` of word `floor(id / 32)` is set.
   */
  readonly masks: readonly Int32Array[];
}

/**
 * Finds the tokens that are allowed next. Has to be a pure function of the tokens: it is called early, for tokens that
 * may never be chosen, and not for each token that is.
 */
export type AllowTokens = (context: AllowContext) => AllowedTokens | Promise<AllowedTokens>;
