/**
 * What a router remembers of one sequence: the tokens that it has seen. Opaque; made by `start`, changed by `route`.
 */
export interface RouterState {
  /** Tokens routed so far. */
  readonly numTokens: number;
}

/** A sequence and the tokens that follow those that its state has seen. */
export interface RouteInput {
  readonly state: RouterState;
  /** At least one token id. */
  readonly tokenIds: ArrayLike<number>;
}

/** The experts of the tokens that were asked about. The route of a token holds for every layer. */
export interface Route {
  /** `[tokens]`, in `[0, numExperts)`. */
  readonly experts: Uint16Array;
  /** Scores before the choice, `[tokens, numExperts]`; empty where a router has none, such as a rule. */
  readonly logits: Float32Array;
}

/**
 * Chooses experts from token ids alone, before the model runs (Read-ME, section 3, eq. 2): a token's expert may
 * depend on it and on the tokens before it, never on those after, nor on other sequences.
 *
 * The pre-gating router of a model is one implementation; a rule, a classifier or a fixed expert are others.
 */
export interface PreGatingRouter {
  readonly numExperts: number;
  /**
   * Most new tokens of one call while others wait. An engine routes longer prompts in several calls, with steps in between. A route must
   * not depend on where calls end. @default no limit
   */
  readonly chunkTokens?: number | undefined;
  /** State of a sequence that no token was seen of yet. */
  start(): RouterState;
  /**
   * Routes the next tokens of several sequences, one new token each or whole prompts, and adds them to their states.
   * A state may appear once, and must be this router's own.
   * @returns one route per input, in their order
   */
  route(inputs: readonly RouteInput[]): Promise<readonly Route[]>;
  /** The sequence is over: its state is of no more use, and what it held may be used again. */
  release(state: RouterState): void;
  dispose(): Promise<void>;
}
