/**
 * What the products of a model take in on typical text. Products are named as in the graph, without their weights:
 * `layers.3.attention.qkv`, `layers.3.ffn.down`, of expert 2 `layers.3.ffn.2.down`; `layers.3.ffn` is what all experts
 * of a layer take in, and `head` what comes out of the last norm.
 */
export interface Calibration {
  /** The largest magnitude of each channel, `[in]`. */
  inputMax(product: string): Promise<Float32Array>;
  /** The sum of each channel's squares, `[in]`. */
  inputSquares(product: string): Promise<Float32Array>;
}
