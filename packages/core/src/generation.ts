// What `Engine.generate` gives back: chunks of completions, and when the prompt was accepted.

/** Reason why a completion ended: an end token or a stop string, or no room for more tokens. */
export type FinishReason = "stop" | "length";

/** A token with its log-probability. */
export interface TokenLogprob {
  readonly id: number;
  readonly text: string;
  /** Log-probability in nats, of the model's own distribution, before temperature and penalties. */
  readonly logprob: number;
}

/**
 * One token of a completion: its id, in `[0, vocabSize)`, and the log-probabilities that were asked for, in nats.
 */
export interface GeneratedToken {
  /** Id of the token. */
  readonly id: number;
  /** Expert of this token; a completion's last token has none. */
  readonly expert?: number;
  /** Log-probability of the token, in nats. Present with `logprobs`. */
  readonly logprob?: number;
  /** The most likely tokens in its place, with their log-probabilities. Present with `logprobs` above 0. */
  readonly topLogprobs?: readonly TokenLogprob[];
}

/** Tokens and waiting time of a request. */
export interface Usage {
  readonly promptTokens: number;
  /** Tokens of all choices, end tokens included. */
  readonly completionTokens: number;
  /** Prompt tokens that came from the prefix cache, summed over all choices. */
  readonly cachedTokens: number;
  /** Longest time that a choice waited for room before it first ran, in ms. */
  readonly queuedMs: number;
  /** Tokens of all choices that were drafted and are part of the completion; 0 without speculation. */
  readonly acceptedDraftTokens: number;
  /** Tokens that were drafted, ran through the model and did not become part of the completion. */
  readonly rejectedDraftTokens: number;
}

/** A piece of one of a request's completions. */
export interface GenerateChunk {
  /** Index of the completion, below `n`. */
  readonly choice: number;
  /** New text: whole characters, without any part of a stop string. May be empty until more tokens decide. */
  readonly text: string;
  /** Tokens of this piece; their text may come in a later piece. */
  readonly tokens: readonly GeneratedToken[];
  /** Present in the last piece of a choice. */
  readonly finishReason?: FinishReason;
  /** Stop string that ended the choice. */
  readonly stop?: string;
  /** Present in the last piece of the last choice. */
  readonly usage?: Usage;
}

/** A prompt that the engine has tokenized, routed and queued. */
export interface AcceptedPrompt {
  readonly promptTokens: number;
  /** Expert of each of the prompt's tokens, `[promptTokens]`. */
  readonly experts: Uint16Array;
}

/** The chunks of a request, and whether the engine has accepted its prompt. */
export interface Generation extends AsyncIterableIterator<GenerateChunk> {
  /**
   * Resolves once per request, before its first chunk, when the engine has accepted the prompt. Rejects with the error
   * of the iteration if the request ends before that, and with an `AbortError` if the iteration is left before that. It
   * is safe to ignore: a rejection that nobody handles is not reported.
   */
  readonly accepted: Promise<AcceptedPrompt>;
}
