// Products of 8-bit integers, which have to be exact. Processors without VNNI add pairs of products of uint8 and int8 in 16 bits,
// which saturate; of uint8 and uint8 they do not. There, weights are stored with 128 added. The runtime has an option that does
// the same when it loads (`session.x64quantprecision`), but to constants only: weights that are inputs would be multiplied wrongly.

import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { MatMulIntegerToFloat } from "../onnx/operators.ts";

/** `fast` products take weights as int8, `careful` ones as uint8: exact on every processor, and slower where both are. */
export type Int8Kernels = "fast" | "careful";

const MIDDLE = 128;

/** The type that weights are stored in. */
export function int8WeightType(kernels: Int8Kernels): "int8" | "uint8" {
  return kernels === "fast" ? "int8" : "uint8";
}

/** Bytes of weights in that type; changes `weights` itself. */
export function int8WeightBytes(weights: Int8Array<ArrayBuffer>, kernels: Int8Kernels): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  // Of 8 bits, adding 128 is the same as turning the first one around.
  if (kernels === "careful") for (let i = 0; i < bytes.length; i++) bytes[i] = (bytes[i] as number) ^ MIDDLE;
  return bytes;
}

/**
 * `scale · (rows - 128) / 127 · weight`, `rows` uint8 `[rows, in]`, `weight` `[in, out]` of `int8WeightType`, `scale` float32
 * `[out]`.
 */
export function int8Product(g: GraphBuilder, rows: Value, weight: Value, scale: Value, kernels: Int8Kernels): Value {
  const zeroPoints = { a: g.byte(MIDDLE), b: kernels === "careful" ? g.byte(MIDDLE) : undefined };
  return MatMulIntegerToFloat(g, rows, weight, { a: g.float(1 / 127), b: scale }, zeroPoints);
}
