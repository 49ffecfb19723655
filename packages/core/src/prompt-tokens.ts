// Tokens of a prompt, and how they are asked for.

/** Options of `Engine.tokenize`. */
export interface TokenizeOptions {
  /** Adds the special tokens that the model expects, such as BOS. @default true for a text, false for a chat */
  readonly addSpecialTokens?: boolean | undefined;
  /** Refuses a text with more tokens, often by its length alone. @default Infinity */
  readonly maxTokens?: number | undefined;
  /** Ends the work when it aborts; the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Tokens of a prompt and the expert of each, before the model has run. */
export interface RoutedPrompt {
  readonly tokenIds: Int32Array;
  /** `[tokens]` */
  readonly experts: Uint16Array;
}
