/**
 * What a model's products take in: `layers.3.attention.qkv`, `layers.3.attention.output`, `layers.3.ffn` and
 * `layers.3.ffn.down` of all tokens, `layers.3.ffn.2` and `layers.3.ffn.2.down` of expert 2's.
 */
export interface InputStatistics {
  /** The sum of each channel's squares, `[in]`. */
  inputSquares(product: string): Promise<Float32Array>;
}
