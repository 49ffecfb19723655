// Operators of the ONNX specification that exported graphs alone use, and the quantised products that the
// usual quantisers write. Named as in the specification; as of operator set 18.

import type { GraphBuilder, Value } from "./graph-builder.ts";

export function Pow(g: GraphBuilder, x: Value, exponent: Value): Value {
  return g.node("Pow", [x, exponent]);
}

export function Cos(g: GraphBuilder, x: Value): Value {
  return g.node("Cos", [x]);
}

export function Sin(g: GraphBuilder, x: Value): Value {
  return g.node("Sin", [x]);
}

export function LessOrEqual(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("LessOrEqual", [a, b]);
}

/** `a · b`, batched over the leading axes. */
export function MatMul(g: GraphBuilder, a: Value, b: Value): Value {
  return g.node("MatMul", [a, b]);
}

/** Elements `[start, end)` of `axis`. */
export function Slice(g: GraphBuilder, x: Value, start: number, end: number, axis: number): Value {
  return g.node("Slice", [x, g.integers([start]), g.integers([end]), g.integers([axis])]);
}

const TYPES = { float32: 1, bool: 9 } as const;

export function CastTo(g: GraphBuilder, x: Value, to: keyof typeof TYPES): Value {
  return g.node("Cast", [x], { to: TYPES[to] });
}

/** A tensor in 8 bits: `scale · (values - zeroPoint)`; scale and zero point are scalars. */
export interface QuantizedTensor {
  readonly values: Value;
  readonly scale: Value;
  readonly zeroPoint: Value;
}

/** uint8 with one scale for the whole of `x`, from its smallest and largest value. */
export function DynamicQuantizeLinear(g: GraphBuilder, x: Value): QuantizedTensor {
  const [values, scale, zeroPoint] = g.nodes("DynamicQuantizeLinear", [x], [0, 1, 2]);
  return { values: values as Value, scale: scale as Value, zeroPoint: zeroPoint as Value };
}

export function DequantizeLinear(g: GraphBuilder, x: QuantizedTensor): Value {
  return g.node("DequantizeLinear", [x.values, x.scale, x.zeroPoint]);
}

/** `(a - aZeroPoint) · (b - bZeroPoint)`, int32; still to be scaled. */
export function MatMulInteger(g: GraphBuilder, a: QuantizedTensor, b: QuantizedTensor): Value {
  return g.node("MatMulInteger", [a.values, b.values, a.zeroPoint, b.zeroPoint]);
}

/**
 * `x · weightᵀ`, weights in blocks of 4 bits with one scale each, 8 standing for zero; products in float32. Operator of
 * onnxruntime. `weight` uint8 `[numOut, blocks, blockSize / 2]`, low half first, `scale` `[numOut · blocks]`.
 */
export function MatMul4Bits(
  g: GraphBuilder,
  x: Value,
  weight: Value,
  scale: Value,
  shape: { readonly numIn: number; readonly numOut: number; readonly blockSize: number },
): Value {
  const attributes = { K: shape.numIn, N: shape.numOut, bits: 4, block_size: shape.blockSize };
  return g.node("MatMulNBits", [x, weight, scale], attributes, "com.microsoft");
}
