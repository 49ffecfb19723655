/** A router's memory of one sequence. Opaque; created by `start`, changed by `route`. */
export interface RouterState {
  /** Number of tokens routed so far. */
  readonly numTokens: number;
}

/** A sequence's state and its next tokens. */
export interface RouteInput {
  readonly state: RouterState;
  /** Token ids, at least one. */
  readonly tokenIds: ArrayLike<number>;
}

/** The experts chosen for some tokens. A token's expert is the same in every layer. */
export interface Route {
  /** `[tokens]`, in `[0, numExperts)`. */
  readonly experts: Uint16Array;
  /** Scores before the choice, `[tokens, numExperts]`; empty for routers without scores, such as a rule. */
  readonly logits: Float32Array;
}

/**
 * Chooses experts from token ids alone, before the model runs (Read-ME, section 3, eq. 2). A token's expert may depend
 * on the token and on the tokens before it, never on later tokens or on other sequences.
 *
 * The model's own pre-gating router is one implementation; a rule, a classifier or a fixed expert are others.
 */
export interface PreGatingRouter {
  readonly numExperts: number;
  /**
   * Largest number of new tokens in one call while other requests wait. The engine routes longer prompts in several
   * calls, with steps in between, so a route must not depend on where calls end. @default no limit
   */
  readonly chunkTokens?: number | undefined;
  /** Creates the state of a new sequence. */
  start(): RouterState;
  /**
   * Routes the next tokens of several sequences, one new token each or whole prompts, and adds them to their states. A
   * state may appear once, and must come from this router.
   * @returns one route per input, in the same order
   */
  route(inputs: readonly RouteInput[]): Promise<readonly Route[]>;
  /**
   * Takes back the tokens from `numTokens` on, so that others can be routed there. Sequences of a router without this
   * method are not speculated.
   *
   * @param numTokens - from 0 to the state's `numTokens`
   */
  readonly rewind?: ((state: RouterState, numTokens: number) => void) | undefined;
  /** Ends a sequence: its state is not used again, and its memory may be reused. */
  release(state: RouterState): void;
  dispose(): Promise<void>;
}
