// What a request says of itself to be let in, and what it holds then.

/** A request that wants to be let in. */
export interface Entrant {
  /** Of the prompt or the whole body: no text has more tokens than bytes. */
  readonly bytes: number;
  /** Tokens that the prompt can have at most. @default `bytes`: no text has more tokens than bytes */
  readonly maxPromptTokens?: number | undefined;
  /** Of each choice. */
  readonly maxCompletionTokens: number;
  readonly choices: number;
  /** Whose request it is. */
  readonly key: string | undefined;
  /** Whose request it is, for fair shares: its key's name, or its address. @default nobody's in particular */
  readonly client?: string | undefined;
  /** Whether the request generates tokens. Events and metrics count only those that do. @default true */
  readonly isGeneration?: boolean | undefined;
  /** Larger numbers go first. */
  readonly priority: number;
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal;
  /** Name of the model, for events. */
  readonly model?: string | undefined;
}

/** The place of a request that was let in. */
export interface Ticket {
  /** States how long the prompt really is, once that is known. Says nothing after `release`. */
  correct(promptTokens: number): void;
  /**
   * Aborted with the reason of the request's own signal, or with an `ApiError`: 408 when no first token came in time, or
   * the whole answer did not; 503 when its place was given to a request of more priority.
   */
  readonly signal: AbortSignal;
  /** States where the prompt's tokens go, once that is known: an expert each. For what others are told of their turn. */
  routed(experts: ArrayLike<number>): void;
  /**
   * Asks the policy, where there is one, now that routes are known. Who waits is shown in its new place.
   * @param experts - names of the model's experts
   * @returns the request's priority
   */
  readonly consult?: (experts: readonly string[]) => Promise<number>;
  /** So many tokens of the answer came. */
  progressed(tokens: number): void;
  /** The first token is there: from now on the request runs, and does not wait. */
  started(): void;
  /** Gives the place back; once is enough, more do no harm. */
  release(): void;
}
