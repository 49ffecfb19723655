import type { GraphBuilder, Value } from "../onnx/graph-builder.ts";
import { Add, Gemm, MatMulIntegerToFloat, Mul } from "../onnx/operators.ts";
import type { LinearRefs } from "../weights/model-weights.ts";
import type { TensorRef } from "../weights/tensor-ref.ts";
import type { Activation } from "./activation.ts";
import { quantizeRows } from "./quantize-rows.ts";

/**
 * `x · weightᵀ + bias`, `x` `[tokens, in]`. Several products of one input are one: their rows are stacked, and so
 * are their outputs, `[tokens, out₀ + out₁ + …]`.
 */
export function linear(g: GraphBuilder, name: string, x: Activation, refs: readonly LinearRefs[]): Value {
  const weights = refs.map((ref) => ref.weight);
  const biases = refs.flatMap((ref) => (ref.bias ? [ref.bias] : []));
  if (biases.length !== 0 && biases.length !== refs.length) {
    throw new TypeError(`Expected all or none of the products stacked in ${name} to have a bias`);
  }
  const bias = biases.length > 0 ? floatWeight(g, `${name}.bias`, biases) : undefined;
  if (x.precision === "fp32") return Gemm(g, x.rows, floatWeight(g, `${name}.weight`, weights), bias);
  const scaled = Mul(g, integerProduct(g, name, x.rows, weights), x.rowMax);
  return bias ? Add(g, scaled, bias) : scaled;
}

/** One float32 constant out of tensors stacked along their outermost axis. */
export function floatWeight(g: GraphBuilder, name: string, refs: readonly TensorRef[]): Value {
  return g.weight(name, "float32", stackedShape(refs), async () => {
    const stacked = await readStacked(refs);
    return new Uint8Array(stacked.buffer);
  });
}

/** The product of quantised rows, and of weights with one scale per output. Rows are still to be scaled. */
function integerProduct(g: GraphBuilder, name: string, rows: Value, refs: readonly TensorRef[]): Value {
  const [numOut, numIn] = stackedShape(refs) as [number, number];
  // The weights are read once; their scales are small and wait for their turn.
  let scales: Promise<Float32Array> | undefined;
  const quantize = async (): Promise<Int8Array> => {
    const quantized = readStacked(refs).then((weights) => quantizeRows(weights, numOut, numIn));
    scales = quantized.then((both) => both.scales);
    return (await quantized).transposed;
  };
  const weight = g.weight(`${name}.weight`, "int8", [numIn, numOut], async () => {
    const transposed = await quantize();
    return new Uint8Array(transposed.buffer);
  });
  const scale = g.weight(`${name}.scale`, "float32", [numOut], async () => {
    if (!scales) await quantize();
    return new Uint8Array(((await scales) as Float32Array).buffer);
  });
  return MatMulIntegerToFloat(g, rows, weight, { a: g.float(1 / 127), b: scale }, g.byte(128));
}

function stackedShape(refs: readonly TensorRef[]): readonly number[] {
  const rows = refs.reduce((sum, ref) => sum + (ref.shape[0] ?? 0), 0);
  return [rows, ...(refs[0]?.shape.slice(1) ?? [])];
}

async function readStacked(refs: readonly TensorRef[]): Promise<Float32Array<ArrayBuffer>> {
  const stacked = new Float32Array(stackedShape(refs).reduce((product, size) => product * size, 1));
  let end = 0;
  for (const ref of refs) {
    const values = await ref.store.readFloats(ref.name);
    stacked.set(values, end);
    end += values.length;
  }
  return stacked;
}
