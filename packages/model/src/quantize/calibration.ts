/**
 * What the products of a model take in on typical text. Products are named without their weights: `layers.3.attention.qkv`,
 * `layers.3.ffn.down`, of expert 2 `layers.3.ffn.2.down`.
 */
export interface Calibration {
  /** The sum of each channel's squares, `[in]`. */
  inputSquares(product: string): Promise<Float32Array>;
}
