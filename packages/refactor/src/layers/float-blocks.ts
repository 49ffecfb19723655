// Products and norms of a model's own tensors, in float32.

import type { LinearRefs, TensorRef } from "@readme-moe/model";
import { operators, type GraphBuilder, type Value } from "@readme-moe/onnx";

/** `x · weightᵀ + bias`, `x` `[rows, in]`. Outputs of several products of one input stand side by side, `[rows, out₀ + out₁ + …]`. */
export function linear(g: GraphBuilder, name: string, x: Value, refs: readonly LinearRefs[]): Value {
  const biases = refs.flatMap(({ bias }) => (bias ? [bias] : []));
  if (biases.length !== 0 && biases.length !== refs.length) {
    throw new TypeError(`Expected all or none of the products stacked in ${name} to have a bias`);
  }
  const weights = refs.map(({ weight }) => weight);
  const bias = biases.length > 0 ? floatWeight(g, `${name}.bias`, biases) : undefined;
  return operators.Gemm(g, x, floatWeight(g, `${name}.weight`, weights), bias);
}

/** RMS norm of the rows of `x`, times `scale`. */
export function rmsNorm(g: GraphBuilder, name: string, x: Value, scale: TensorRef, epsilon: number): Value {
  return operators.SimplifiedLayerNormalization(g, x, floatWeight(g, name, [scale]), epsilon);
}

/** One float32 constant out of tensors stacked along their outermost axis. */
export function floatWeight(g: GraphBuilder, name: string, refs: readonly TensorRef[]): Value {
  const numRows = refs.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
  const shape = [numRows, ...(refs[0]?.shape.slice(1) ?? [])];
  return g.weight(name, "float32", shape, async () => {
    const stacked = new Float32Array(shape.reduce((product, size) => product * size, 1));
    let end = 0;
    for (const { store, name: tensor } of refs) {
      const values = await store.readFloats(tensor);
      stacked.set(values, end);
      end += values.length;
    }
    return new Uint8Array(stacked.buffer);
  });
}
