/** Some neurons of a layer's FFN, with a down-projection of their own. */
export interface Part {
  /** Their rows in the dense FFN, rising. */
  readonly neurons: Int32Array;
  /** `[hiddenSize, neurons]` */
  readonly down: Float32Array;
  /** `[hiddenSize]` */
  readonly bias: Float32Array;
}

/** What a layer's FFN becomes. */
export interface LayerExperts {
  /** Used by every token; `undefined` where experts share nothing. */
  readonly shared: Part | undefined;
  readonly experts: readonly Part[];
}
