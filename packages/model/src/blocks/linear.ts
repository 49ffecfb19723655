import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Gemm } from "../onnx/operators.ts";
import type { LinearRefs } from "../weights/model-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";

/**
 * `x · weightᵀ + bias`, `x` `[tokens, in]`. Several products of one input are one: their rows are stacked, and so
 * are their outputs, `[tokens, out₀ + out₁ + …]`.
 */
export function linear(g: GraphBuilder, name: string, x: Value, refs: readonly LinearRefs[]): Value {
  const weight = floatWeight(
    g,
    `${name}.weight`,
    refs.map((ref) => ref.weight),
  );
  const biases = refs.flatMap((ref) => (ref.bias ? [ref.bias] : []));
  if (biases.length !== 0 && biases.length !== refs.length) {
    throw new TypeError(`Expected all or none of the products stacked in ${name} to have a bias`);
  }
  return Gemm(g, x, weight, biases.length > 0 ? floatWeight(g, `${name}.bias`, biases) : undefined);
}

/** One float32 constant out of tensors stacked along their outermost axis. */
export function floatWeight(g: GraphBuilder, name: string, refs: readonly TensorRef[]): Value {
  const rows = refs.reduce((sum, ref) => sum + (ref.shape[0] ?? 0), 0);
  const rest = refs[0]?.shape.slice(1) ?? [];
  return g.weight(name, "float32", [rows, ...rest], async () => {
    const stacked = new Float32Array(rest.reduce((product, size) => product * size, rows));
    let end = 0;
    for (const ref of refs) {
      const values = await ref.store.readFloats(ref.name);
      stacked.set(values, end);
      end += values.length;
    }
    return new Uint8Array(stacked.buffer);
  });
}
